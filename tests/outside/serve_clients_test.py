#!/usr/bin/env python3
"""The SDKs of OpenAI and Anthropic use `coterie serve` as they use their own servers: list, stream, logprobs, abort, a wrong
key, a busy server that is asked again."""

import argparse
import os
import pathlib
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "serve"))
from other_python import other_python  # noqa: E402
from server import Server  # noqa: E402

try:
    import anthropic
    import openai
except ImportError as reason:
    other_python(reason)

TEMPLATE = """{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""
HELLO = [{"role": "user", "content": "Tell me a story"}]


def openai_client(server, key):
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key, max_retries=0)
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model
    chat = client.chat.completions
    whole = chat.create(model=model, messages=HELLO, max_tokens=10, seed=3, logprobs=True, top_logprobs=2)
    text = whole.choices[0].message.content
    assert whole.usage.completion_tokens == 10 and len(whole.choices[0].logprobs.content) == 10
    assert "".join(t.token for t in whole.choices[0].logprobs.content) == text
    chunks = list(chat.create(model=model, messages=HELLO, max_tokens=10, seed=3, stream=True,
                              stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage.completion_tokens == 10 and not chunks[-1].choices
    plain = client.completions.create(model=model, prompt="Once", max_tokens=5, logprobs=2)
    assert len(plain.choices[0].logprobs.tokens) == 5
    response = client.responses.create(model=model, input="Tell me a story", max_output_tokens=10, extra_body={"seed": 3})
    assert response.output_text == text, (response.output_text, text)
    with client.responses.stream(model=model, input="Tell me a story", max_output_tokens=10, extra_body={"seed": 3}) as events:
        seen = list(events)
        assert "".join(e.delta for e in seen if e.type == "response.output_text.delta") == text
        assert seen[-1].type == "response.incomplete" and seen[-1].response.output_text == text  # by max_output_tokens
    stream = chat.create(model=model, messages=HELLO, max_tokens=2000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    begun = time.time()
    stream.close()
    while server.get("/health")["running"]:
        assert time.time() - begun < 1.5, "the answer goes on after its reader has gone"
        time.sleep(0.02)
    for wrong, call in ((openai.AuthenticationError, lambda: client.with_options(api_key="wrong").models.list()),
                        (openai.NotFoundError, lambda: chat.create(model="other", messages=HELLO)),
                        (openai.BadRequestError, lambda: chat.create(model=model, messages=HELLO, temperature=-1)),
                        (openai.BadRequestError, lambda: chat.create(model=model, messages=HELLO, extra_body={"surprise": 1}))):
        try:
            call()
        except wrong as error:
            assert error.message
        else:
            raise AssertionError(f"no {wrong.__name__}")


def anthropic_client(server, key):
    client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key=key, max_retries=0)
    model = server.ask("GET", "/v1/models", headers={"X-Api-Key": key})[2]["data"][0]["id"]
    count = client.messages.count_tokens(model=model, messages=HELLO).input_tokens
    whole = client.messages.create(model=model, max_tokens=10, messages=HELLO, extra_body={"seed": 3})
    assert whole.usage.input_tokens + whole.usage.cache_read_input_tokens == count
    assert whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 10
    with client.messages.stream(model=model, max_tokens=10, messages=HELLO, extra_body={"seed": 3}) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        assert stream.get_final_message().stop_reason == "max_tokens"
    for wrong, call in ((anthropic.AuthenticationError, lambda: client.with_options(api_key="wrong").messages.create(model=model, max_tokens=1, messages=HELLO)),
                        (anthropic.BadRequestError, lambda: client.messages.create(model=model, max_tokens=1, messages=HELLO, extra_body={"temperature": -1}))):
        try:
            call()
        except wrong as error:
            assert error.message
        else:
            raise AssertionError(f"no {wrong.__name__}")


def retried(coterie, model):
    """A busy server answers 429, and the SDK asks again after Retry-After."""
    with Server(coterie, model, "--parallel", 1, "--max-queue", 1) as server:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=30)
        answers = []

        def one():
            answers.append(client.completions.create(model="coterie-small", prompt="x", max_tokens=150, extra_body={"ignore_eos": True}))

        threads = [threading.Thread(target=one) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 5, answers
        assert '"status":429' in server.log(), server.log()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--model", default="models/coterie-small.gguf")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        template = pathlib.Path(name) / "template.jinja"
        template.write_text(TEMPLATE)
        with Server(options.coterie, options.model, "--chat-template", template, "--api-key", "sesame") as server:
            for what, call in (("openai", openai_client), ("anthropic", anthropic_client)):
                call(server, "sesame")
                print(f"{what}: list, whole, stream, count, errors, a wrong key", flush=True)
    retried(options.coterie, options.model)
    print("openai: a busy server is asked again")


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    main()
