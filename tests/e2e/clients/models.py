"""Drives the vendors' own SDKs against the runtime at MESH_URL with the key MESH_KEY: one JSON object, a result per name.

An address and a key are all that they are told.
"""

import asyncio
import json
import os
import sys
import traceback

import anthropic
import openai
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from google import genai
from google.genai import types

URL, KEY = os.environ["MESH_URL"], os.environ["MESH_KEY"]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAAAABJRU5ErkJggg=="
RESULTS: dict[str, object] = {}
set_tracing_disabled(True)


def result(name):
    """Runs it; what it raises is its result."""

    def run(function):
        try:
            RESULTS[name] = function()
        except Exception as error:  # whatever an SDK makes of an answer
            response = getattr(error, "response", None)
            RESULTS[name] = {
                "raised": type(error).__name__,
                "status": getattr(error, "status_code", getattr(error, "code", None)),
                "message": str(error)[:500],
                "retry_after": response.headers.get("retry-after") if response is not None else None,
                "trace": traceback.format_exc()[-1500:],
            }

    return run


o = openai.OpenAI(base_url=f"{URL}/openai/v1", api_key=KEY, max_retries=0)
a = anthropic.Anthropic(base_url=f"{URL}/anthropic", api_key=KEY, max_retries=0)
g = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=f"{URL}/run/gemini"))
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def says(text):
    return [{"role": "user", "content": text}]


@result("openai.chat")
def _():
    answer = o.chat.completions.create(model="gpt-4o-mini", messages=says("hello [cached=3]"))
    return {"text": answer.choices[0].message.content, "in": answer.usage.prompt_tokens, "out": answer.usage.completion_tokens}


@result("openai.chat_stream")
def _():
    chunks = list(o.chat.completions.create(model="gpt-4o-mini", messages=says("hello"), stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return {"text": text, "usage": [chunk.usage for chunk in chunks if chunk.usage], "chunks": len(chunks)}


@result("openai.chat_stream_usage")
def _():
    options = {"include_usage": True}
    chunks = list(o.chat.completions.create(model="gpt-4o-mini", messages=says("hello"), stream=True, stream_options=options))
    return {"out": chunks[-1].usage.completion_tokens, "choices": len(chunks[-1].choices)}


@result("openai.tools")
def _():
    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    answer = o.chat.completions.create(model="gpt-4o-mini", messages=says("hello"), tools=tools)
    call = answer.choices[0].message.tool_calls[0]
    after = [*says("hello"), answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    text = o.chat.completions.create(model="gpt-4o-mini", messages=after, tools=tools).choices[0].message.content
    return {"name": call.function.name, "arguments": call.function.arguments, "text": text}


@result("openai.image")
def _():
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]
    return o.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": parts}]).choices[0].message.content


@result("openai.parse")
def _():
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    return o.chat.completions.create(model="gpt-4o-mini", messages=says("hello"), response_format=form).choices[0].message.content


@result("openai.responses")
def _():
    answer = o.responses.create(model="gpt-4o-mini", input="hello [cached=3]")
    return {"text": answer.output_text, "in": answer.usage.input_tokens, "out": answer.usage.output_tokens}


@result("openai.responses_stream")
def _():
    events = list(o.responses.create(model="gpt-4o-mini", input="hello", stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    return {"text": text, "last": events[-1].type, "out": events[-1].response.usage.output_tokens}


@result("openai.embeddings")
def _():
    answer = o.embeddings.create(model="gpt-4o-mini", input=["one", "two"])
    return {"vectors": [item.embedding for item in answer.data], "in": answer.usage.prompt_tokens}


@result("openai.models")
def _():
    return [model.id for model in o.models.list()] + [o.models.retrieve("gpt-other").id]


for status in (401, 429, 500):
    result(f"openai.{status}")(lambda status=status: o.chat.completions.create(model="gpt-4o-mini", messages=says(f"[status={status}]")))
result("openai.break")(lambda: len(list(o.chat.completions.create(model="gpt-4o-mini", messages=says("a b c [break]"), stream=True))))
result("openai.files")(lambda: o.files.list())
result("openai.stranger")(lambda: openai.OpenAI(base_url=f"{URL}/openai/v1", api_key="sk-own", max_retries=0).models.list())


async def ask_async():
    async with openai.AsyncOpenAI(base_url=f"{URL}/openai/v1", api_key=KEY, max_retries=0) as client:
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="gpt-4o-mini", messages=says(f"number {n}")) for n in range(5))
        )
        return [answer.choices[0].message.content for answer in answers]


result("openai.at_once")(lambda: asyncio.run(ask_async()))


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


async def run_agent(model_class, stream):
    client = openai.AsyncOpenAI(base_url=f"{URL}/openai/v1", api_key=KEY, max_retries=0)
    agent = Agent(name="a", instructions="Help.", tools=[weather], model=model_class("gpt-4o-mini", openai_client=client))
    if not stream:
        return (await Runner.run(agent, "hello")).final_output
    running = Runner.run_streamed(agent, "hello")
    async for _ in running.stream_events():
        pass
    return running.final_output


result("agents.chat")(lambda: asyncio.run(run_agent(OpenAIChatCompletionsModel, False)))
result("agents.responses")(lambda: asyncio.run(run_agent(OpenAIResponsesModel, False)))
result("agents.stream")(lambda: asyncio.run(run_agent(OpenAIResponsesModel, True)))


@result("anthropic.messages")
def _():
    answer = a.messages.create(model="claude-3-5-haiku", max_tokens=100, messages=says("hello [cached=3]"))
    return {"text": answer.content[0].text, "out": answer.usage.output_tokens, "read": answer.usage.cache_read_input_tokens}


@result("anthropic.stream")
def _():
    with a.messages.stream(model="claude-3-5-haiku", max_tokens=100, messages=says("hello")) as stream:
        text = "".join(stream.text_stream)
        return {"text": text, "out": stream.get_final_message().usage.output_tokens}


@result("anthropic.tools")
def _():
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    answer = a.messages.create(model="claude-3-5-haiku", max_tokens=100, messages=says("hello"), tools=tools)
    return {"name": answer.content[0].name, "input": answer.content[0].input, "reason": answer.stop_reason}


@result("anthropic.image")
def _():
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": "look"}]
    return a.messages.create(model="claude-3-5-haiku", max_tokens=100, messages=[{"role": "user", "content": parts}]).content[0].text


result("anthropic.count")(lambda: a.messages.count_tokens(model="claude-3-5-haiku", messages=says("hello")).input_tokens)
result("anthropic.models")(lambda: [model.id for model in a.models.list()])
for status in (429, 529):
    result(f"anthropic.{status}")(
        lambda status=status: a.messages.create(model="claude-3-5-haiku", max_tokens=9, messages=says(f"[status={status}]"))
    )


@result("gemini.generate")
def _():
    answer = g.models.generate_content(model="gemini-2.0-flash", contents="hello [cached=3]")
    used = answer.usage_metadata
    return {"text": answer.text, "in": used.prompt_token_count, "out": used.candidates_token_count, "thoughts": used.thoughts_token_count}


@result("gemini.stream")
def _():
    return "".join(chunk.text for chunk in g.models.generate_content_stream(model="gemini-2.0-flash", contents="hello"))


@result("gemini.tools")
def _():
    declared = types.FunctionDeclaration(name="weather", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])])
    call = g.models.generate_content(model="gemini-2.0-flash", contents="hello", config=config).function_calls[0]
    return {"name": call.name, "args": call.args}


@result("gemini.image")
def _():
    import base64

    image = types.Part.from_bytes(data=base64.b64decode(PIXEL), mime_type="image/png")
    return g.models.generate_content(model="gemini-2.0-flash", contents=["look", image]).text


result("gemini.embed")(lambda: g.models.embed_content(model="gemini-2.0-flash", contents="hello").embeddings[0].values)
result("gemini.count")(lambda: g.models.count_tokens(model="gemini-2.0-flash", contents="hello").total_tokens)
result("gemini.models")(lambda: [model.name for model in g.models.list()])
result("gemini.429")(lambda: g.models.generate_content(model="gemini-2.0-flash", contents="[status=429]"))

json.dump(RESULTS, sys.stdout)
