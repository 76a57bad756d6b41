#!/usr/bin/env python3
"""What clients get wrong: each is told so in OpenAI's form, with the right status, while another's answer goes on to what it is
alone."""

import argparse
import json
import pathlib
import resource
import socket
import tempfile
import threading

from server import Server

TEMPLATE = """{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""
STORY = {"prompt": "Once upon a time there was", "max_tokens": 40, "temperature": 0.8, "seed": 7, "ignore_eos": True}
HELLO = [{"role": "user", "content": "Hi"}]


def refused(server, path, body, status, param=None):
    found, headers, answer = server.ask("POST", path, body)
    assert found == status, f"{path} {str(body)[:80]}: {found} {answer}"
    error = answer["error"]
    assert set(error) >= {"message", "type", "param", "code"} and error["message"], error
    assert param is None or error["param"] == param, error


def bodies(server):
    for body in (b"", b"{", b"[1, 2", b'{"prompt": }', b'{"prompt": "\xff\xfe"}', b'{"prompt": "x", "temperature": NaN}',
                 b'{"prompt": "x", "temperature": 1e999}', b'{"a"' + b"[" * 100_000, b"null", b'"x"', b"[]"):
        refused(server, "/v1/completions", body, 400)
    for field, value in (("temperature", "hot"), ("temperature", -1), ("max_tokens", 1.5), ("max_tokens", -7), ("n", 0), ("stop", [1]),
                         ("stream", "yes"), ("logit_bias", {"x": "y"}), ("seed", 2**70), ("logprobs", 99), ("top_k", []), ("model", 5)):
        refused(server, "/v1/completions", {"prompt": "x", field: value}, 400, field)
    for messages in (None, "x", [], [1], [{}], [{"role": "user"}], [{"role": "nobody", "content": "x"}], [{"role": "user", "content": [5]}]):
        refused(server, "/v1/chat/completions", {"messages": messages}, 400)
    for path, body in (("/v1/messages", {"messages": HELLO, "max_tokens": 3, "tool_choice": {"type": 5}}), ("/v1/responses", {"input": 5})):
        found, _, answer = server.ask("POST", path, body)
        assert found == 400, (path, found, answer)
    refused(server, "/v1/completions", {"prompt": "word " * 5000}, 400)
    refused(server, "/v1/completions", {"prompt": [10**9]}, 400, "prompt")
    contradiction = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}, "required": ["a"]}
    refused(server, "/v1/chat/completions", {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "schema": contradiction}}}, 400)
    refused(server, "/v1/completions", {"prompt": "x", "guided_regex": "(["}, 400)
    refused(server, "/nowhere", {}, 404)


def sockets(server):
    def raw(data, half=False):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(data)
            if half:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            return answer

    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    # 100 MB that are announced, and 100 MB that are sent in chunks without end.
    assert raw(head + b"Content-Length: 100000000\r\n\r\n" + b"x" * 100_000).startswith(b"HTTP/1.1 413")
    assert raw(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 431")
    assert raw(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    body = json.dumps({"prompt": "x", "max_tokens": 3}).encode()
    whole = raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body, half=True)
    # A client that has stopped sending is sent a 100 first, which tells whether it is still there.
    assert b"HTTP/1.1 200" in whole and b'"choices"' in whole, whole
    assert raw(head + b"Content-Length: 500\r\n\r\n{", half=True)[:12] in (b"", b"HTTP/1.1 400")


def crowd(server, count):
    """So many connections that say nothing, and a client beside them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 500), hard))
    count = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(count)]
    assert server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})["choices"]
    for connection in silent:
        connection.close()
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--model", default="models/coterie-small.gguf")
    parser.add_argument("--idle", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        template = pathlib.Path(folder) / "template.jinja"
        template.write_text(TEMPLATE)
        with Server(options.coterie, options.model, "--chat-template", template) as server:
            alone = server.post("/v1/completions", STORY)["choices"]
            over, wrong = threading.Event(), []

            def goes_on():
                while not over.is_set():
                    if server.post("/v1/completions", STORY)["choices"] != alone:
                        wrong.append("another's answer has changed")

            other = threading.Thread(target=goes_on)
            other.start()
            try:
                bodies(server)
                sockets(server)
                print(f"{crowd(server, options.idle)} idle connections")
            finally:
                over.set()
                other.join()
            assert not wrong, wrong
            assert server.process.poll() is None
            assert '"status":500' not in server.log(), [line for line in server.log().splitlines() if '"status":500' in line][:3]


if __name__ == "__main__":
    main()
