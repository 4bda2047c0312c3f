"""library/templates: what each of them does with what the services and the web say."""

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.fakes.library_services import RUNTIME, LibraryServices
from tests.fakes.ready_made import Post, html

ANSWER = "slack_trigger/answer"


async def ok(answer: Awaitable[httpx.Response]) -> Any:
    given = await answer
    assert given.status_code == 200, given.text
    return given.json()


def says(answer: Any) -> Callable[[Any], Any]:
    return lambda prompt: answer


# ── People and companies.


async def test_a_person_is_found(post: Post, services: LibraryServices) -> None:
    services.results = [
        {"title": "Ada", "link": "https://www.linkedin.com/in/ada", "snippet": "Engineer"},
        {"title": "Nothing", "link": None, "snippet": None},
        {"title": "Engines", "link": "https://www.engines.example/about", "snippet": None},
    ]
    services.people = {"email": "ada@engines.example", "score": 97, "position": None}
    services.profiles = [{"username": f"ada{number}", "url": f"https://github.com/ada{number}"} for number in range(5)]
    found = await ok(post("person_finder", {"name": "Ada King Lovelace", "company": "Engines"}))
    assert found["domain"] == "engines.example"
    assert (found["email"], found["email_score"]) == ("ada@engines.example", 97)
    assert found["linkedin"] == "https://www.linkedin.com/in/ada"
    assert found["github"] == [f"https://github.com/ada{number}" for number in range(3)]
    assert found["pages"][2] == {"title": "Engines", "link": "https://www.engines.example/about", "snippet": ""}
    assert found["problems"] == {}
    assert services.called("hunter/find_email") == [
        {"domain": "engines.example", "first_name": "Ada", "last_name": "Lovelace"}
    ]
    assert {asked["q"] for asked in services.called("searchapi")} == {
        "Engines official website",
        '"Ada King Lovelace" Engines',
    }


async def test_a_source_that_fails_leaves_the_others(post: Post, services: LibraryServices) -> None:
    services.down = {"hunter/find_email": (424, "set RUNMESH_HUNTER_API_KEY"), "searchapi": (429, "slowly")}
    services.profiles = [{"username": "ada", "url": "https://github.com/ada"}]
    person = {"name": "Ada Lovelace", "domain": "engines.example"}
    found = await ok(post("person_finder", person))
    assert (found["email"], found["pages"], found["github"]) == ("", [], ["https://github.com/ada"])
    assert found["problems"] == {
        "email": "hunter/find_email: set RUNMESH_HUNTER_API_KEY",
        "pages": "searchapi: slowly",
    }
    services.down["github/search_profiles"] = (500, "no")
    answer = await post("person_finder", person)
    assert (answer.status_code, answer.json()["detail"]) == (429, "searchapi: slowly")


async def test_a_company_is_enriched_from_what_can_be_read(post: Post, services: LibraryServices) -> None:
    facts = {
        "name": "Engines",
        "description": "Makes engines.",
        "industry": "Machines",
        "products": ["Difference engine"],
        "customers": [],
        "headquarters": "London",
        "employees": "about 20",
    }
    services.pages["https://engines.example"] = html("We make engines. " + "x" * 30_000)
    nothing: dict[str, str | None] = dict.fromkeys(("title", "link", "snippet"))
    services.results = [{"title": "Engines grows", "link": "https://news.example/1", "snippet": "It grows"}, nothing]
    services.answer = says(facts)
    found = await ok(post("company_enrichment", {"domain": "engines.example"}))
    assert found["facts"] == facts
    assert found["news"] == [{"title": "Engines grows", "link": "https://news.example/1"}]
    assert "We make engines." in services.prompts[0]
    assert "Engines grows: It grows" in services.prompts[0]
    assert len(services.prompts[0]) < 22_000
    services.down["webpage_to_markdown"] = (502, "the page can't be reached")
    found = await ok(post("company_enrichment", {"domain": "engines.example", "model": "anthropic/m"}))
    assert found["problems"] == {"page": "webpage_to_markdown: the page can't be reached"}
    assert services.called("anthropic")[0]["model"] == "m"
    services.down["searchapi"] = (424, "set it")
    answer = await post("company_enrichment", {"domain": "engines.example"})
    assert (answer.status_code, answer.json()["detail"]) == (502, "webpage_to_markdown: the page can't be reached")


# ── Questions, tickets, messages.


async def test_research_cites_what_it_has_read(post: Post, services: LibraryServices) -> None:
    services.results = [{"title": f"T{n}", "link": f"https://p.example/{n}", "snippet": f"S{n}"} for n in range(1, 6)]
    services.pages = {f"https://p.example/{n}": html(f"text {n}") for n in range(1, 6)}
    services.answer = says("Yes [1], and also [2, 3]. Not [9].")
    told = await ok(post("web_research", {"question": "Is it so?", "pages": 3}))
    assert [source["number"] for source in told["sources"]] == [1, 2, 3]
    assert told["sources"][0] == {"number": 1, "title": "T1", "url": "https://p.example/1"}
    assert "text 3" in services.prompts[0]
    assert "text 4" not in services.prompts[0]
    services.down["webpage_to_markdown"] = (502, "unreadable")
    told = await ok(post("web_research", {"question": "Is it so?", "pages": 2}))
    assert set(told["problems"]) == {"https://p.example/1", "https://p.example/2"}
    assert "S2" in services.prompts[1]
    services.results = [{"title": None, "link": None, "snippet": None}]
    assert (await post("web_research", {"question": "Is it so?"})).status_code == 404


async def test_tickets_are_sorted_and_urgent_ones_mailed(post: Post, services: LibraryServices) -> None:
    def judge(prompt: str) -> Any:
        urgent = "down" in prompt
        category, priority = ("bug", "urgent") if urgent else ("weather", "whenever")
        return {"category": category, "priority": priority, "mood": "", "summary": "It is", "reply": "We look."}

    services.answer = judge
    tickets = [{"id": "A", "body": "How nice"}, {"id": "B", "body": "All is down"}]
    told = await ok(post("ticket_triage", {"tickets": tickets, "alert_to": "ops@example.com"}))
    assert [(each["id"], each["category"], each["priority"]) for each in told["tickets"]] == [
        ("B", "bug", "urgent"),
        ("A", "other", "normal"),
    ]
    assert services.mails == [{"to": "ops@example.com", "subject": "Urgent tickets", "body": "B (bug): It is"}]
    services.down["send_email"] = (424, "set RUNMESH_SEND_EMAIL_HOST")
    told = await ok(post("ticket_triage", {"tickets": tickets, "alert_to": "ops@example.com"}))
    assert told["problem"] == "send_email: set RUNMESH_SEND_EMAIL_HOST"
    assert len(told["tickets"]) == 2


async def test_slack_gets_an_answer_in_the_thread(post: Post, services: LibraryServices) -> None:
    services.answer = says("Forty-two.")
    message = {"type": "app_mention", "text": "<@U1> what is it?", "channel": "C1", "ts": "2.0", "thread_ts": "1.0"}
    told = await ok(post("slack_answer_bot", {"type": "event_callback", "event_id": "Ev1", "event": message}))
    assert told == {"answered": True, "answer": "Forty-two."}
    assert services.called("openai")[0]["prompt"].endswith("what is it?")
    assert services.called(ANSWER) == [{"channel": "C1", "thread_ts": "1.0", "text": "Forty-two."}]
    direct = {"type": "message", "channel_type": "im", "text": "and now?", "channel": "D1", "ts": "3.0"}
    assert (await ok(post("slack_answer_bot", {"event": direct})))["answered"]
    for other in ({"bot_id": "B1"}, {"subtype": "message_changed"}, {"text": "<@U1>"}, {"type": "reaction_added"}):
        assert await ok(post("slack_answer_bot", {"event": message | other})) == {"answered": False, "answer": ""}
    in_channel = direct | {"channel_type": "channel"}
    assert not (await ok(post("slack_answer_bot", {"event": in_channel})))["answered"]
    assert len(services.called(ANSWER)) == 2
    services.down[ANSWER] = (404, "Slack doesn't know that: channel_not_found")
    answer = await post("slack_answer_bot", {"event": message})
    told = f"{ANSWER}: Slack doesn't know that: channel_not_found"
    assert (answer.status_code, answer.json()["detail"]) == (404, told)


async def test_a_thread_is_told_when_there_is_no_answer(post: Post, services: LibraryServices) -> None:
    services.down["openai"] = (402, "no credits")
    message = {"type": "app_mention", "text": "why?", "channel": "C1", "ts": "2.0"}
    answer = await post("slack_answer_bot", {"event": message})
    assert (answer.status_code, answer.json()["detail"]) == (402, "openai: no credits")
    assert services.called(ANSWER)[0]["text"].startswith("Sorry")


async def test_a_form_is_mailed_to_its_owner_only(post: Post, services: LibraryServices, monkeypatch: Any) -> None:
    form = {"name": "Bob\nB", "email": "bob@example.com", "subject": "Hi\nBcc: all", "message": "Grüße", "to": "x@y"}
    sent = await post("form_to_email", data=form)
    assert (sent.status_code, sent.json()) == (200, {"sent": True})
    (mail,) = services.mails
    assert mail == {
        "to": "me@example.com",
        "subject": "Hi Bcc: all",
        "body": "From: Bob B <bob@example.com>\n\nGrüße",
        "reply_to": "bob@example.com",
    }
    assert await ok(post("form_to_email", {"email": "bob@example.com", "message": "again"})) == {"sent": True}
    assert len(services.mails) == 2
    assert await ok(post("form_to_email", data=form | {"website": "http://spam"})) == {"sent": True}
    assert len(services.mails) == 2
    for content, kind, status in (
        (b"{}", "application/json", 422),
        (b"[1", "application/json", 422),
        (b"\xff=1", "application/x-www-form-urlencoded", 422),
        (b"hi", "text/plain", 415),
    ):
        assert (await post("form_to_email", content=content, headers={"content-type": kind})).status_code == status
    monkeypatch.setenv("CONTACT_THANKS_URL", "https://example.com/thanks")
    answer = await post("form_to_email", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "https://example.com/thanks")


# ── Documents.


async def test_an_invoice_becomes_json_and_is_checked(post: Post, services: LibraryServices) -> None:
    address = "https://files.example/invoice"
    found = {"number": "7", "lines": [{"description": "Paper", "amount": 10}], "net": 10, "tax": 2, "total": 12}
    services.answer = says(json.dumps(found))
    for content, kind in ((b"%PDF-1.7 x", "file"), (b"\x89PNG x", "image_url"), (b"\xff\xd8\xff x", "image_url")):
        services.pages[address] = httpx.Response(200, content=content)
        told = await ok(post("invoice_extractor", {"file_url": address}))
        assert (told["number"], told["total"], told["seller"], told["warnings"]) == ("7", 12, "", [])
        _, part = services.prompts[-1]
        assert part["type"] == kind
        assert base64.b64encode(content).decode() in str(part)
    services.answer = says(json.dumps(found | {"net": 11}))
    assert (await ok(post("invoice_extractor", {"file_url": address})))["warnings"] == [
        "lines make 10.00, not 11.00",
        "net and tax make 13.00, not 12.00",
    ]
    services.answer = says('{"total": "much"}')
    assert (await post("invoice_extractor", {"file_url": address})).status_code == 502
    services.pages[address] = httpx.Response(200, content=b"GIF89a")
    assert (await post("invoice_extractor", {"file_url": address})).status_code == 422
    services.pages[address] = httpx.Response(200, content=b"%PDF" + bytes(3_000_000))
    assert (await post("invoice_extractor", {"file_url": address})).status_code == 413
    gone = await post("invoice_extractor", {"file_url": "https://files.example/gone"})
    assert (gone.status_code, "404" in gone.json()["detail"]) == (422, True)


async def test_minutes_of_a_long_meeting_are_put_together(post: Post, services: LibraryServices) -> None:
    minutes = {
        "summary": "We talked.",
        "decisions": ["Ship"],
        "actions": [{"who": "Bob", "what": "writes", "due": "Friday"}],
        "open_questions": [],
    }
    services.answer = says(minutes)
    told = await ok(post("meeting_summary", {"transcript": "Ann: ship. Bob: I write.", "email_to": ["a@b", "c@d"]}))
    assert told == {**minutes, "problem": ""}
    assert len(services.called("openai")) == 1
    (mail,) = services.mails
    assert (mail["to"], mail["subject"]) == (["a@b", "c@d"], "Meeting")
    assert mail["body"] == "We talked.\n\nDecisions\n- Ship\n\nTo do\n- Bob: writes Friday"
    services.down["send_email"] = (502, "refused")
    told = await ok(post("meeting_summary", {"transcript": "word " * 30_000, "email_to": ["a@b"]}))
    assert (told["summary"], told["problem"]) == ("We talked.", "send_email: refused")
    assert len(services.called("openai")) == 1 + 3 + 1


async def test_a_table_is_described_and_the_report_kept(post: Post, services: LibraryServices) -> None:
    rows = "\ufeffcity,rain\nBergen,2250\n\nRome,878\nRome,\n"
    services.pages["https://files.example/rain.csv"] = httpx.Response(200, text=rows)
    services.answer = says("Most in **Bergen**.")
    asked = {"csv_url": "https://files.example/rain.csv", "question": "Where?"}
    told = await ok(post("csv_report", asked))
    assert told["rows"] == 3
    assert told["columns"] == [
        {"name": "city", "filled": 3, "distinct": 2, "numbers": {}, "commonest": {"Rome": 2, "Bergen": 1}},
        {
            "name": "rain",
            "filled": 2,
            "distinct": 2,
            "numbers": {"least": 878, "mean": 1564, "most": 2250},
            "commonest": {"2250": 1, "878": 1},
        },
    ]
    assert told["report_url"] == f"{RUNTIME}/files/report.md"
    assert b"Most in **Bergen**." in services.files["report.md"]
    services.down["openai"] = (424, "set it")
    told = await ok(post("csv_report", asked))
    assert told["findings"] == "No findings: /run/openai: set it"
    assert b"878" in services.files["report.md"]
    services.pages["https://files.example/rain.csv"] = httpx.Response(200, text='a;b\n1,5;"x\ny"\nnan;2e3\n1e999')
    told = await ok(post("csv_report", asked))
    assert [(column["name"], column["filled"], column["numbers"]) for column in told["columns"]] == [
        ("a", 3, {}),
        ("b", 2, {}),
    ]
    services.pages["https://files.example/rain.csv"] = httpx.Response(200, text="\n")
    assert (await post("csv_report", asked)).status_code == 422


# ── What watches, and tells once.

SITE = "https://shop.example/"
MAIL = {"alert_to": "me@example.com"}


async def test_a_site_that_goes_down_is_mailed_once_and_again_when_it_is_back(
    post: Post, services: LibraryServices
) -> None:
    watch = {"sites": [{"url": SITE, "text": "Shop"}], **MAIL}

    async def checked() -> tuple[bool, str, bool]:
        told = await ok(post("site_monitor", watch))
        (site,) = told["sites"]
        assert site["since"]
        assert site["changed"] == told["mailed"]
        return site["up"], site["reason"], told["mailed"]

    services.pages[SITE] = html("Our Shop")
    assert await checked() == (True, "", False)
    services.pages[SITE] = html("Apache default page")
    assert await checked() == (False, "'Shop' isn't there", True)
    since = services.values["site_monitor:me@example.com"][SITE]["since"]
    services.pages[SITE] = httpx.ConnectError("refused")
    assert await checked() == (False, "ConnectError: refused", False)
    assert services.values["site_monitor:me@example.com"][SITE]["since"] == since
    services.pages[SITE] = html("Shop")
    services.down["send_email"] = (502, "greylisted")
    assert (await post("site_monitor", watch)).status_code == 502
    services.down.clear()
    assert await checked() == (True, "", True)
    assert [mail["body"] for mail in services.mails] == [
        f"{SITE} is down: 'Shop' isn't there",
        f"{SITE} is up again",
    ]
    services.pages[SITE] = httpx.Response(500)
    up, reason, _ = await checked()
    assert (up, reason) == (False, f"HTTPStatusError: Server error '500 Internal Server Error' for url '{SITE}'")


async def test_a_price_that_falls_is_mailed_once(post: Post, services: LibraryServices) -> None:
    cheap, other = f"{SITE}cheap", f"{SITE}other"
    watch = {"products": [{"url": cheap, "target": 25}, {"url": other}, {"url": f"{SITE}empty"}], **MAIL}
    services.pages = {cheap: html("cheap"), other: html("other"), f"{SITE}empty": html("empty")}
    prices: dict[str, float] = {"cheap": 30, "other": 10, "empty": 0}

    def priced(prompt: str) -> Any:
        name = prompt.split("<page>")[1].split(maxsplit=1)[0]
        return {"name": name, "price": prices[name], "currency": "EUR"}

    services.answer = priced
    told = await ok(post("price_watch", watch))
    assert [each["price"] for each in told["products"]] == [30, 10, 0]
    assert told["products"][2]["problem"] == "the page shows no price"
    assert not told["mailed"]
    prices |= {"cheap": 24.5, "other": 10}
    told = await ok(post("price_watch", watch))
    assert (told["mailed"], told["products"][0]["last"]) == (True, 30)
    assert services.mails[0]["body"] == f"cheap: 24.5 EUR, was 30: {cheap}"
    prices |= {"cheap": 24, "other": 11}
    assert (await ok(post("price_watch", watch)))["mailed"]
    assert services.mails[1]["body"] == f"other: 11 EUR, was 10: {other}"
    assert not (await ok(post("price_watch", watch)))["mailed"]
    services.down["openai"] = (424, "set it")
    answer = await post("price_watch", watch)
    assert (answer.status_code, answer.json()["detail"]) == (502, "no price was found: openai: set it")


@pytest.mark.parametrize(
    ("name", "asked", "old"),
    [
        ("site_monitor", {"sites": [{"url": SITE}]}, {"up": True, "since": "2030-01-01T00:00:00+00:00"}),
        ("price_watch", {"products": [{"url": SITE}]}, 12.5),
        ("rss_digest", {"feeds": [SITE]}, ["https://a.example/1"] * 10),
    ],
)
async def test_what_is_no_longer_watched_makes_room(
    post: Post, services: LibraryServices, name: str, asked: dict[str, Any], old: Any
) -> None:
    feed = "<rss><item><title>One</title><link>https://a.example/2</link></item></rss>"
    services.pages[SITE] = httpx.Response(200, text=feed)
    product = {"name": "kettle", "price": 30, "currency": "EUR"}
    services.answer = lambda _: "A digest" if name == "rss_digest" else product
    others = [f"https://shop.example/{number}" for number in range(100)]
    services.values[f"{name}:"] = {SITE: old} | dict.fromkeys(others, old)
    await ok(post(name, asked))
    kept = services.values[f"{name}:"]
    assert SITE in kept
    assert [url for url in kept if url != SITE] == others[1:]


RSS = """<?xml version="1.0"?><rss xmlns:atom="http://www.w3.org/2005/Atom"><channel>
<atom:link rel="self" href="https://a.example/feed"/><link>https://a.example</link>
<item><title>One &amp; all</title><link> https://a.example/1 </link></item>
<item><title>No link</title></item>{more}</channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><entry><title>Two</title><link rel="edit" href="https://b.example/e"/>
<link href="https://b.example/2"/></entry></feed>"""


async def test_a_digest_has_what_is_new(post: Post, services: LibraryServices) -> None:
    first, second, third = "https://a.example/feed", "https://b.example/feed", "https://c.example/feed"
    services.pages = {
        first: httpx.Response(200, text=RSS.format(more="")),
        second: httpx.Response(200, text=ATOM),
        third: httpx.Response(200, content=b'<?xml version="1.0" encoding="gb2312"?><rss/>'),
    }
    services.answer = says("Today: …")
    wanted = {"feeds": [first, second, third], "email_to": "me@example.com"}
    told = await ok(post("rss_digest", wanted))
    assert told["items"] == [
        {"title": "One & all", "url": "https://a.example/1"},
        {"title": "Two", "url": "https://b.example/2"},
    ]
    assert list(told["problems"]) == [third]
    assert services.mails == [{"to": "me@example.com", "subject": "Digest: 2 news", "body": "Today: …"}]
    assert (await ok(post("rss_digest", wanted)))["items"] == []
    # A feed that fails meanwhile forgets nothing; what can't be mailed stays new.
    services.pages[second] = httpx.Response(503)
    more = "<item><title>Three</title><link>https://a.example/3</link></item>"
    services.pages[first] = httpx.Response(200, text=RSS.format(more=more))
    services.down["send_email"] = (502, "greylisted")
    assert (await post("rss_digest", wanted)).status_code == 502
    services.down.clear()
    told = await ok(post("rss_digest", wanted))
    assert [item["title"] for item in told["items"]] == ["Three"]
    services.pages[second] = httpx.Response(200, text=ATOM)
    assert (await ok(post("rss_digest", wanted)))["items"] == []
    assert len(services.mails) == 2
    assert [item["url"] for item in (await ok(post("rss_digest", wanted | {"email_to": "", "most": 1})))["items"]] == [
        "https://a.example/1"
    ]
    services.pages = {first: httpx.Response(404)}
    answer = await post("rss_digest", {"feeds": [first]})
    assert answer.status_code == 502
    assert "404" in answer.json()["detail"]


async def test_what_a_digest_keeps_has_a_bound(post: Post, services: LibraryServices) -> None:
    feeds = [f"https://a.example/{number}" for number in range(20)]
    item = "<item><title>T</title><link>https://a.example/{}/{}/" + "x" * 210 + "</link></item>"
    for feed, address in enumerate(feeds):
        items = "".join(item.format(feed, number) for number in range(99))
        services.pages[address] = httpx.Response(200, text=RSS.format(more=items))
    found = [len((await ok(post("rss_digest", {"feeds": feeds, "most": 100})))["items"]) for _ in range(11)]
    assert found == [*[100] * 9, 20 * 49 + 1 - 900, 0]  # the first of the 50 is the same in all feeds


async def test_a_briefing_is_mailed_once_a_day_with_the_sources_that_answer(
    post: Post, services: LibraryServices
) -> None:
    place = {"name": "Berlin", "latitude": 52.5, "longitude": 13.4, "timezone": "Europe/Berlin"}
    services.pages = {
        "https://geocoding-api.open-meteo.com/v1/search": httpx.Response(200, json={"results": [place]}),
        "https://api.open-meteo.com/v1/forecast": httpx.Response(200, json={"daily": {"temperature_2m_max": [21.5]}}),
    }
    services.results = [{"title": "Python 4", "link": "https://news.example/4", "snippet": None}]
    services.down["reddit/posts"] = (424, "set RUNMESH_REDDIT_CLIENT_ID")
    services.answer = says("Good morning.")
    reader = {"email_to": "me@example.com", "place": "Berlin", "topics": ["python"], "subreddits": ["python"]}
    told = await ok(post("daily_briefing", reader))
    assert told == {
        "mailed": True,
        "text": "Good morning.",
        "problems": {"r/python": "reddit/posts: set RUNMESH_REDDIT_CLIENT_ID"},
    }
    assert "21.5" in services.prompts[0]
    assert "Python 4" in services.prompts[0]
    assert [mail["body"] for mail in services.mails] == ["Good morning."]
    assert (await ok(post("daily_briefing", reader)))["mailed"] is False
    assert len(services.mails) == 1
    services.values.clear()
    services.pages["https://geocoding-api.open-meteo.com/v1/search"] = httpx.Response(200, json={})
    answer = await post("daily_briefing", {"email_to": "me@example.com", "place": "Nowhere"})
    assert (answer.status_code, "no place is called 'Nowhere'" in answer.json()["detail"]) == (502, True)
    services.pages["https://geocoding-api.open-meteo.com/v1/search"] = httpx.ConnectError("down")
    answer = await post("daily_briefing", {"email_to": "me@example.com", "place": "Berlin"})
    assert (answer.status_code, "ConnectError" in answer.json()["detail"]) == (502, True)
    assert (await post("daily_briefing", {"email_to": "me@example.com"})).status_code == 422
    assert len(services.mails) == 1


# ── Links.


async def test_dead_links_are_found(post: Post, services: LibraryServices) -> None:
    home, about = "https://www.s.example/", "https://www.s.example/about/"
    away, gone, shut = "https://o.example/", "https://www.s.example/about/gone", "https://o.example/shut"
    bad = "https://o.example:99999/"
    services.pages = {
        "https://s.example/": httpx.Response(301, headers={"location": home}),
        home: html(
            f'<a href="/about#top">A</a><a href="{away}">B</a><a href="mailto:x@y">C</a><a href="http://[">D</a>'
        ),
        "https://www.s.example/about": httpx.Response(302, headers={"location": about}),
        about: html(f'<a href="/">home</a><img src="gone"><a href="{shut}">E</a><a>F</a><a href="{bad}"><![no[x]]>'),
        away: html('<a href="https://o.example/not-followed">'),
        shut: httpx.Response(403),
        bad: ExceptionGroup("of anyio", [OverflowError("port must be 0-65535")]),
    }
    named = ["https://www.s.example/about"]
    told = await ok(post("link_checker", {"url": "https://s.example"}))
    assert (told["pages"], told["links"], told["complete"]) == (2, 6, True)
    assert told["broken"] == [
        {"url": gone, "problem": "status 404", "refused": False, "pages": named},
        {"url": shut, "problem": "status 403", "refused": True, "pages": named},
        {"url": bad, "problem": "ExceptionGroup: of anyio (1 sub-exception)", "refused": False, "pages": named},
    ]
    told = await ok(post("link_checker", {"url": home, "links": 2}))
    assert (told["links"], told["complete"]) == (2, False)
    told = await ok(post("link_checker", {"url": home, "pages": 1}))
    assert (told["pages"], told["broken"], told["complete"]) == (1, [], False)
    services.pages[about] = httpx.ConnectTimeout("slow")
    told = await ok(post("link_checker", {"url": home}))
    assert told["broken"] == [{"url": named[0], "problem": "ConnectTimeout: slow", "refused": False, "pages": [home]}]
    services.pages = {home: httpx.Response(200, text="plain")}
    assert await ok(post("link_checker", {"url": home})) == {"pages": 0, "links": 1, "complete": True, "broken": []}
    answer = await post("link_checker", {"url": "https://s.example/"})
    assert (answer.status_code, "404 Not Found" in answer.json()["detail"]) == (422, True)
