#!/usr/bin/env python3
"""`coterie serve` as a process: answers that company does not change, disconnects, limits, keys, stopping."""

import argparse
import base64
import json
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time

from server import Server

TEMPLATE = """{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""
STORY = {"prompt": "Once upon a time there was", "max_tokens": 24, "temperature": 0.8, "seed": 7}


def without_times(answer):
    return {key: value for key, value in answer.items() if key not in ("id", "created", "timings", "usage")}


def completions(server):
    alone = server.post("/v1/completions", {**STORY, "logprobs": 3, "routed_experts": True})
    assert alone["usage"]["completion_tokens"] == 24, alone["usage"]
    again = server.post("/v1/completions", {**STORY, "logprobs": 3, "routed_experts": True})
    assert without_times(alone) == without_times(again), "the same request, from the cache, has another answer"
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0
    npy = base64.b64decode(alone["choices"][0]["routed_experts"])
    assert npy.startswith(b"\x93NUMPY"), npy[:10]
    other = server.post("/v1/completions", {**STORY, "seed": 8})
    assert other["choices"][0]["text"] != alone["choices"][0]["text"]
    chunks = list(server.stream("/v1/completions", STORY))
    assert "".join(c["choices"][0]["text"] for c in chunks) == alone["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    text = alone["choices"][0]["text"]
    cut = text[5:9]
    stopped = server.post("/v1/completions", {**STORY, "stop": [cut]})["choices"][0]
    assert stopped["text"] == text[: text.index(cut)] and stopped["finish_reason"] == "stop", stopped
    return alone


def company(server, alone):
    """Many clients at once, some of whom leave: each answer is that of the client alone."""
    wanted = {**STORY, "logprobs": 3, "routed_experts": True}
    failures = []

    def stays(number):
        answer = server.post("/v1/completions", {**wanted, "n": 1 + number % 2})
        first = answer["choices"][0]
        if first != alone["choices"][0]:
            failures.append((number, first["text"]))

    def leaves(number):
        for count, _ in enumerate(server.stream("/v1/completions", {"prompt": "The " * (20 + 8 * number), "max_tokens": 200})):
            if count == number:
                return

    threads = [threading.Thread(target=stays if n % 3 else leaves, args=(n,)) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def harness(server):
    """What lm-evaluation-harness asks of local-completions."""
    ids = server.post("/tokenize", {"content": "The cat sat on the mat"})["tokens"]
    answer = server.post("/v1/completions", {"prompt": [ids, ids[:3]], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    logprobs = answer["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(ids) + 1 and logprobs["token_logprobs"][0] is None
    assert all(value < 0 for value in logprobs["token_logprobs"][1:])
    assert logprobs["token_logprobs"][-1] == max(logprobs["top_logprobs"][-1].values())
    # The same tokens, generated: the same figures.
    prefix = server.post("/v1/completions", {"prompt": ids[:3], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0})
    assert prefix["choices"][0]["logprobs"]["token_logprobs"] == answer["choices"][1]["logprobs"]["token_logprobs"]
    assert answer["choices"][1]["logprobs"]["token_logprobs"][1:3] == logprobs["token_logprobs"][1:3]


def chats(server):
    messages = [{"role": "user", "content": "Tell me a story"}]
    body = {"messages": messages, "max_tokens": 12, "seed": 1}
    whole = server.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
    streamed = "".join(c["choices"][0]["delta"].get("content") or "" for c in server.stream("/v1/chat/completions", body))
    assert whole == streamed
    responses = server.post("/v1/responses", {"input": "Tell me a story", "max_output_tokens": 12, "seed": 1})
    assert responses["output"][0]["content"][0]["text"] == whole, responses
    anthropic = server.post("/v1/messages", body)
    assert anthropic["content"][0]["text"] == whole and anthropic["stop_reason"] == "max_tokens", anthropic
    prompt = server.post("/apply-template", {"messages": messages})["prompt"]
    native = server.post("/completion", {"prompt": prompt, "n_predict": 12, "seed": 1})
    assert native["content"] == whole, (native["content"], whole)


def forms(server):
    """What a constraint lets through, by the model itself."""
    body = {"prompt": "The answer is ", "max_tokens": 16, "seed": 2}
    chosen = server.post("/v1/completions", {**body, "structured_outputs": {"choice": ["yes", "no"]}})["choices"][0]
    assert chosen["text"] in ("yes", "no") and chosen["finish_reason"] == "stop", chosen
    digits = server.post("/v1/completions", {**body, "n": 2, "structured_outputs": {"regex": "[0-9]{3}"}})["choices"]
    assert all(len(choice["text"]) == 3 and choice["text"].isdigit() for choice in digits), digits
    schema = {"type": "object", "properties": {"x": {"type": "strin"}}}
    error = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "response_format": {
        "type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}, 400)["error"]
    assert error["param"] == "response_format" and "/properties/x" in error["message"], error


def disconnects(server):
    def settled():
        return json.loads(json.dumps(server.get("/health")))["running"] == 0

    for stream in (True, False):
        connection = socket.create_connection(("127.0.0.1", server.port))
        body = json.dumps({"prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": stream}).encode()
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        for _ in range(100):
            if not settled():
                break
            time.sleep(0.01)
        begun = time.time()
        connection.close()
        while not settled():
            assert time.time() - begun < 1.5, "the answer goes on a second after its reader has gone"
            time.sleep(0.02)


def bad_requests(server):
    for body in ("{", "[1]", '{"prompt": 1}', '{"prompt": "x", "temperature": NaN}', b'{"prompt": "\xff"}',
                 '{"prompt": "x", "surprise": 1}', '{"prompt": "x", "max_tokens": "many"}', "[" * 100000):
        error = server.post("/v1/completions", body, 400)["error"]
        assert error["type"] == "invalid_request_error" and error["message"], error
    long = server.post("/v1/completions", {"prompt": "word " * 20000}, 400)["error"]
    assert long["n_prompt_tokens"] > long["n_ctx"], long
    assert server.get("/health")["status"] == "ok"


def flood(coterie, model):
    with Server(coterie, model, "--parallel", 1, "--max-queue", 2) as server:
        statuses = []

        def one():
            begun = time.time()
            status, headers, _ = server.ask("POST", "/v1/completions", {"prompt": "x", "max_tokens": 60, "ignore_eos": True})
            statuses.append((status, headers.get("Retry-After"), time.time() - begun))

        threads = [threading.Thread(target=one) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [(after, took) for status, after, took in statuses if status == 429]
        assert refused and all(int(after) >= 1 for after, _ in refused), statuses
        assert sum(status == 200 for status, _, _ in statuses) >= 3, statuses


def keys_and_stopping(coterie, model, folder):
    keys = folder / "keys"
    keys.write_text("# of the tests\nsesame\n")
    path = folder / "socket"
    with Server(coterie, model, "--api-key-file", keys, "--listen", f"unix:{path}") as server:
        server.get("/v1/models", 401)
        status, _, models = server.ask("GET", "/v1/models", headers={"Authorization": "Bearer sesame"})
        assert status == 200 and models["data"][0]["id"] == "coterie-small", models
        local = socket.socket(socket.AF_UNIX)
        local.connect(str(path))
        local.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in local.recv(1000)
        local.close()
        # What runs is finished, and nothing new is taken.
        result = {}

        def last():
            result["answer"] = server.ask("POST", "/v1/completions", {"prompt": "x", "max_tokens": 150, "ignore_eos": True},
                                          {"Authorization": "Bearer sesame"})

        thread = threading.Thread(target=last)
        thread.start()
        while server.get("/health")["running"] == 0 and not result:
            time.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        status, _, answer = result["answer"]
        assert status == 200 and answer["usage"]["completion_tokens"] == 150, result
        assert server.process.wait(10) == 0
        assert not path.exists()
    with Server(coterie, model) as server:  # the second signal ends at once
        thread = threading.Thread(target=lambda: list(server.stream("/v1/completions", {"prompt": "x", "max_tokens": 100000, "ignore_eos": True, "n": 4})))
        thread.start()
        while server.get("/health")["running"] == 0:
            time.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        thread.join()


def usage(coterie, model):
    for options, word in ((["--port", "70000"], "--port"), (["--cache-memory", "x"], "--cache-memory"), (["--listen", "x"], "--listen"),
                          (["--api-key-file", "/nowhere"], "/nowhere"), (["--host", "no such host"], "--host")):
        done = subprocess.run([coterie, "serve", model, *options], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and word in done.stderr, (options, done.returncode, done.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--model", default="models/coterie-small.gguf")
    options = parser.parse_args()
    coterie, model = options.coterie, options.model
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "template.jinja").write_text(TEMPLATE)
        with Server(coterie, model, "--chat-template", folder / "template.jinja") as server:
            begun = time.time()

            def stage(what, call, *arguments):
                result = call(*arguments)
                print(f"{time.time() - begun:5.1f} s  {what}", flush=True)
                return result

            try:
                alone = stage("completions", completions, server)
                stage("company", company, server, alone)
                stage("harness", harness, server)
                stage("chats", chats, server)
                stage("structured output", forms, server)
                stage("disconnects", disconnects, server)
                stage("bad requests", bad_requests, server)
                stage("flood", flood, coterie, model)
                stage("keys and stopping", keys_and_stopping, coterie, model, folder)
                stage("usage", usage, coterie, model)
            except BaseException:
                print(server.log()[-3000:])
                raise
    print("10 passed, 0 failed")


if __name__ == "__main__":
    main()
