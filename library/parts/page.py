"""A page of the web, fetched and told as Markdown: written into the services that need it (scheduler/library.py)."""

import asyncio
import codecs
import io
import re
import ssl
from collections.abc import Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpx
from charset_normalizer import from_bytes
from html_to_markdown import ConversionOptions, PreprocessingOptions, convert
from pypdf import PdfReader
from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from library.parts.refusals import Refused
from library.parts.way import place_of

MOST_BYTES = 10 << 20
MOST_HOPS = 10
MOST_PDF_PAGES = 200
AGENT = "Mozilla/5.0 (compatible; Runmesh/1.0; reads pages on behalf of a user)"
ACCEPT = "text/html,application/xhtml+xml,text/markdown;q=0.9,text/plain;q=0.8,application/pdf;q=0.7,*/*;q=0.5"
# Headers that belong to the site that they were given for, and go no further.
_OF_ONE_SITE = {"authorization", "cookie", "proxy-authorization"}
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_MARKS_OF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Codecs that no page is written in: they take for ever, or make half characters.
_PYTHONS_OWN = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7"}
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE)
# What is on most pages and is no page's content.
NEVER = "script, style, noscript, template, iframe, object, embed, link, meta, svg, canvas, dialog, [hidden]"
AROUND = (
    "nav, header, footer, aside, form[role=search], [role=navigation], [role=banner], [role=contentinfo], "
    "[role=complementary], [role=search], [role=dialog], [aria-modal=true], .navbar, .sidebar, .side-bar, .menu, "
    ".breadcrumb, .breadcrumbs, .pagination, .cookie, .cookies, .cookie-banner, .cookie-consent, .cookie-notice, "
    ".advertisement, .ads, .ad-banner, .social, .share, .share-buttons, .related, .newsletter, .skip-link, .sr-only, "
    "#nav, #navbar, #header, #footer, #sidebar, #menu, #cookie, #cookie-banner, #cookies, #breadcrumbs, #ad, #ads"
)
MAIN = "main, [role=main], article, #main, #content, .main-content, .post-content, .entry-content"
LEAST_MAIN = 0.35  # of the page's text: less is a part of what the page has to say
_TOLD_AS_TEXT = ("application/json", "application/xml", "application/xhtml+xml", "application/ld+json")
# Whoever wants less has taken it out before.
_OPTIONS = ConversionOptions(
    extract_metadata=False, bullets="-", inline_data_media="keep", preprocessing=PreprocessingOptions(enabled=False)
)
_BLANKS = re.compile(r"\s+")
_FEW_LETTERS = 100


@dataclass(frozen=True)
class Page:
    """As it came. `url`: after redirects. `html`: of a page; `text`: of anything else that can be read."""

    url: str
    status: int
    content_type: str
    html: str = ""
    text: str = ""


async def fetch(
    url: str, seconds: float = 30, headers: Mapping[str, str] | None = None, *, verify: bool = True
) -> Page:
    """Follows redirects, each one as carefully as the first address. Errors: Refused."""
    try:
        async with asyncio.timeout(seconds):
            return await _fetch(url.strip(), seconds, dict(headers or {}), verify)
    except (TimeoutError, httpx.TimeoutException):
        raise Refused(504, "page_timeout", f"{url[:200]} didn't answer within {seconds:g} s") from None
    except (httpx.InvalidURL, UnicodeError) as error:
        raise Refused(400, "bad_url", f"{url[:200]!r} leads to what is no address of a web page: {error}") from None
    except (httpx.HTTPError, OSError) as error:
        raise _unreached(url, error) from None


async def _fetch(url: str, seconds: float, headers: dict[str, str], verify: bool) -> Page:
    headers = {"User-Agent": AGENT, "Accept": ACCEPT, "Accept-Language": "en,*;q=0.5", **headers}
    async with httpx.AsyncClient(timeout=seconds, verify=verify, trust_env=True, cookies={}) as client:
        for _ in range(MOST_HOPS + 1):
            parts = await place_of(url)
            async with aclosing(await _asked(client, url, headers)) as answer:
                if not answer.has_redirect_location:
                    return await _read(answer)
                goal = joined(url, answer.headers["location"])
            if (after := await place_of(goal)).netloc != parts.netloc or after.scheme != parts.scheme:
                headers = {name: value for name, value in headers.items() if name.lower() not in _OF_ONE_SITE}
            url = goal
    raise Refused(424, "too_many_redirects", f"{url[:200]} redirects more than {MOST_HOPS} times")


async def _asked(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> httpx.Response:
    """The answer, whose body is still to be read."""
    try:
        return await client.send(client.build_request("GET", url, headers=headers), stream=True, follow_redirects=False)
    except AttributeError as error:  # anyio's, on uvloop: a connection that was reset (denied) before it was used
        raise httpx.ConnectError("the connection was reset") from error


async def _read(answer: httpx.Response) -> Page:
    content_type = answer.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Refused(413, "too_large", f"the page is larger than {MOST_BYTES >> 20} MiB")
    url, status = str(answer.url), answer.status_code
    if kind == "application/pdf" or body[:5] == b"%PDF-":
        return Page(url, status, content_type, text=await asyncio.to_thread(pdf_text, bytes(body)))
    looks = bytes(body[:1024]).lstrip().lower()
    if kind in ("text/html", "application/xhtml+xml") or (not kind and looks.startswith(b"<")):
        return Page(url, status, content_type, html=decoded(bytes(body), content_type))
    if not body or kind.startswith("text/") or kind in _TOLD_AS_TEXT or kind.endswith(("+json", "+xml")):
        return Page(url, status, content_type, text=decoded(bytes(body), content_type))
    raise Refused(
        415, "unsupported_type", f"{url[:200]} is no page, text or PDF, but {kind[:100] or 'of no known type'}"
    )


def _unreached(url: str, error: Exception) -> Refused:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            told = getattr(cause, "verify_message", "") or str(cause)
            return Refused(424, "tls_failed", f"{url[:200]} has no certificate to be trusted, or speaks no TLS: {told}")
        cause = cause.__cause__ or cause.__context__
    told = str(error) or type(error).__name__
    return Refused(424, "unreachable", f"{url[:200]} can't be reached, or may not be (a private address?): {told}")


def decoded(body: bytes, content_type: str) -> str:
    """By its mark, the header, the page itself, as UTF-8, else as it looks."""
    named = [codec for mark, codec in _MARKS if body.startswith(mark)]
    if found := re.search(r"charset\s*=\s*[\"']?([\w:.-]{1,40})", content_type, re.IGNORECASE):
        named.append(found[1])
    if inside := _META_CHARSET.search(body[:4096]):
        named.append(inside[1].decode("ascii"))
    for name in named:
        with suppress(LookupError, UnicodeError):  # it isn't known, or is no text's, such as base64
            codec = codecs.lookup(name).name
            # As browsers read it: Latin-1 is Windows' superset of it, and what names UTF-16 in plain letters isn't.
            codec = {"iso8859-1": "cp1252", "ascii": "cp1252"}.get(codec, codec)
            codec = "utf-8" if codec.startswith("utf-16") and not body.startswith(_MARKS_OF_16) else codec
            if codec not in _PYTHONS_OWN:
                return body.decode(codec, errors="replace")
    try:
        return body.decode()
    except UnicodeDecodeError:
        best = from_bytes(body[:100_000], cp_exclusion=["utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_7"]).best()
        return body.decode(best.encoding if best else "cp1252", errors="replace")


def pdf_text(body: bytes) -> str:
    """Its pages' text, with an empty line between them. Errors: Refused."""
    try:
        reader = PdfReader(io.BytesIO(body))
        pages = [page.extract_text().strip() for page in reader.pages[:MOST_PDF_PAGES]]
    except Exception as error:  # noqa: BLE001  # pypdf's own, and whatever else a broken one makes it stumble over
        raise Refused(415, "unsupported_type", f"the PDF can't be read: {str(error) or type(error).__name__}") from None
    return "\n\n".join(page for page in pages if page)


def content(page: Page, *, only_main: bool = True, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> str:
    """The HTML of what the page has to say, its links absolute. `include`, `exclude`: selectors of CSS.

    Errors: Refused for what is no selector.
    """
    tree = LexborHTMLParser(page.html)
    _absolute(tree, page.url)
    for selector in (NEVER, *exclude):
        remove(selected(tree, selector))
    included = list(include)
    if included:
        return "\n".join(node.html or "" for selector in included for node in selected(tree, selector))
    body = tree.body
    if body is not None and "hidden" in body.attributes:
        del body.attrs["hidden"]
    if only_main:
        body = _main(tree)
    return (body.html if body is not None else tree.html) or ""


def selected(tree: LexborHTMLParser, selector: str) -> list[LexborNode]:
    """In order, once each. Errors: Refused."""
    try:
        return list({node.mem_id: node for node in tree.css(selector)}.values())
    except (SelectolaxError, ValueError):
        raise Refused(
            400, "bad_request", f"{selector[:200]!r} is no selector of CSS, such as 'article .text'"
        ) from None


def remove(nodes: Iterable[LexborNode]) -> None:
    """Those in order: what lies in others goes before these, with which it would be gone. But never the page itself,
    which can have a class such as `cookies`, or be hidden until a program shows it.
    """
    for node in reversed([node for node in nodes if node.tag not in ("html", "body")]):
        node.decompose()


def _main(tree: LexborHTMLParser) -> LexborNode | None:
    """The largest part that is marked as main, if it is most of the page; else all but what stands around pages."""
    kept = _holding_a_main(tree)
    remove(node for node in selected(tree, AROUND) if node.mem_id not in kept)
    body = tree.body
    whole = letters(body)
    marked = max(tree.css(MAIN), key=letters, default=None)
    articles = tree.css("article")
    if marked is None or (marked.tag == "article" and len(articles) > 1):  # a list of several
        return body
    return marked if letters(marked) >= LEAST_MAIN * whole else body


def _holding_a_main(tree: LexborHTMLParser) -> set[int]:
    """A page may lie in a `header` as a whole, and the title of an article does in its own. Each node is seen once:
    pages can have tens of thousands in one another.
    """
    kept = {node.mem_id for node in tree.css("article header, main header")}
    above: set[int] = set()
    for node in tree.css("main, [role=main], h1"):
        one: LexborNode | None = node
        while one is not None and one.mem_id not in above:
            above.add(one.mem_id)
            one = one.parent
    return kept | above


def letters(node: LexborNode | None) -> int:
    """How much text there is in it."""
    return len(_BLANKS.sub("", node.text(deep=True))) if node is not None else 0


def _absolute(tree: LexborHTMLParser, url: str) -> None:
    base = tree.css_first("base[href]")
    url = joined(url, (base.attributes.get("href") or "") if base is not None else "")
    for node in tree.css("[href], [src]"):
        for name in ("href", "src"):
            value = node.attributes.get(name)
            if value and not value.startswith(("data:", "javascript:", "mailto:", "tel:")):
                node.attrs[name] = joined(url, value)
            elif value and value.startswith("javascript:"):
                del node.attrs[name]


def joined(base: str, value: str) -> str:
    """As it is where it can't be joined."""
    try:
        return urljoin(base, value.strip())
    except ValueError:
        return value


def markdown(html: str, *, images: bool = True) -> str:
    """Without images that hold their own data, unless `images`."""
    told = convert(html, _OPTIONS).content or ""
    if not images:
        told = re.sub(r"!\[([^\]]*)\]\(data:image/[^)\s]*\)", r"![\1](<Base64-Image-Removed>)", told)
    return re.sub(r"\n{3,}", "\n\n", told).strip()


def links(page: Page) -> list[str]:
    """Where it links to, once each, without the parts of pages."""
    tree = LexborHTMLParser(page.html)
    _absolute(tree, page.url)
    found = [node.attributes.get("href") or "" for node in tree.css("a[href]")]
    return list(dict.fromkeys(url.partition("#")[0] for url in found if url.startswith(("http://", "https://"))))


def images(page: Page) -> list[str]:
    """Those it shows, once each."""
    tree = LexborHTMLParser(page.html)
    _absolute(tree, page.url)
    found = [node.attributes.get("src") or "" for node in tree.css("img[src]")]
    return list(dict.fromkeys(url for url in found if url.startswith(("http://", "https://"))))


def title(page: Page) -> str:
    """Its own, else its first heading."""
    tree = LexborHTMLParser(page.html)
    node = tree.css_first("head > title") or tree.css_first("h1")
    return _BLANKS.sub(" ", node.text(deep=True)).strip() if node is not None else ""


def needs_scripts(page: Page) -> bool:
    """Whether it says hardly anything and has programs that might."""
    tree = LexborHTMLParser(page.html)
    if tree.css_first("script[src], script:not([type]), script[type=module], script[type*=javascript]") is None:
        return False
    return letters(LexborHTMLParser(content(page)).body) < _FEW_LETTERS


def metadata(page: Page, asked: str) -> dict[str, Any]:
    """What the page says of itself, and how it came."""
    tree = LexborHTMLParser(page.html)
    found: dict[str, Any] = {}
    for node in tree.css("meta[content]"):
        name = node.attributes.get("property") or node.attributes.get("name") or node.attributes.get("itemprop")
        if name and len(name) <= 100:
            found.setdefault(name, (node.attributes.get("content") or "")[:10_000])
    for name in [name for name in found if name.startswith("og:")]:
        first, *others = re.split(r"[:_]", name)
        found["".join([first, *(each.capitalize() for each in others)])] = found[name]
    language = tree.css_first("html[lang]")
    icon = tree.css_first("link[rel~=icon][href]")
    found |= {"language": language.attributes.get("lang")} if language is not None else {}
    found |= {"favicon": joined(page.url, icon.attributes.get("href") or "")} if icon is not None else {}
    about = {"sourceURL": asked, "url": page.url, "statusCode": page.status, "contentType": page.content_type}
    return {**found, "title": title(page), **about}
