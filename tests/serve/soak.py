#!/usr/bin/env python3
"""For an hour, or as long as --seconds says: clients that come and go, cut off, read slowly and ask nonsense. Every answer has
to be what the request gets alone, and the server's memory has to stay where it is. Exit code 1 where that does not hold.

  tests/serve/soak.py --seconds 3600 [--coterie build/tsan/coterie] [-- options of coterie serve]
"""

import argparse
import json
import pathlib
import random
import sys
import tempfile
import threading
import time

from server import Server

TEMPLATE = """{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""
WORDS = "the a once upon time there was little girl who lived in big house near forest and every day she went to see".split()


def requests_of(seed, count):
    """Some requests whose beginnings are alike now and then."""
    draw = random.Random(seed)
    beginnings = [" ".join(draw.choice(WORDS) for _ in range(draw.randint(4, 40))) for _ in range(6)]
    for number in range(count):
        prompt = draw.choice(beginnings) + " " + " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 20)))
        common = {"seed": number, "temperature": draw.choice([0, 0.8, 1.2]), "max_tokens": draw.randint(4, 40)}
        if draw.random() < 0.5:
            yield "/v1/completions", {"prompt": prompt, **common, "logprobs": 2, "routed_experts": True}
        else:
            yield "/v1/chat/completions", {"messages": [{"role": "user", "content": prompt}], **common, "logprobs": True}


def essence(answer):
    return [{key: value for key, value in choice.items()} for choice in answer["choices"]]


def memory(process):
    """Bytes that are the process's own; mapped weights are the file's."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


class Soak:
    def __init__(self, server, wanted, seconds):
        self.server, self.wanted, self.until = server, wanted, time.monotonic() + seconds
        self.failures, self.counts, self.lock = [], {"checked": 0, "left": 0, "slow": 0, "nonsense": 0, "busy": 0}, threading.Lock()

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def check(self, path, body, alone):
        status, _, answer = self.server.ask("POST", path, body)
        if status == 429:
            self.count("busy")
            return time.sleep(0.2)
        if status != 200 or essence(answer) != alone:
            self.failures.append((path, body, answer))
        self.count("checked")

    def leave(self, path, body, draw):
        """Reads a part of a stream, and goes; or goes before anything has come."""
        connection = self.server.connect()
        body = {key: value for key, value in body.items() if key != "routed_experts"}
        connection.request("POST", path, json.dumps({**body, "stream": True, "max_tokens": 200, "ignore_eos": True}),
                           {"Content-Type": "application/json"})
        if draw.random() < 0.7:
            response = connection.getresponse()
            for _ in range(draw.randint(0, 8)):
                response.readline()
        connection.close()
        self.count("left")

    def slow(self, path, body, draw):
        connection = self.server.connect()
        body = {key: value for key, value in body.items() if key != "routed_experts"}
        connection.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        while response.read1(64):
            time.sleep(draw.uniform(0, 0.05))
        connection.close()
        self.count("slow")

    def nonsense(self, draw):
        body = draw.choice(["{", "[]", '{"prompt": 5}', '{"prompt": "x", "temperature": NaN}', '{"messages": [{}]}', "\xff", '{"prompt": "x", "surprise": 1}'])
        status, _, _ = self.server.ask("POST", draw.choice(["/v1/completions", "/v1/chat/completions", "/v1/messages"]), body.encode("latin-1"))
        if not 400 <= status < 500:
            self.failures.append(("nonsense", body, status))
        self.count("nonsense")

    def client(self, seed):
        draw = random.Random(seed)
        while time.monotonic() < self.until and not self.failures:
            try:
                path, body, alone = draw.choice(self.wanted)
                what = draw.random()
                if what < 0.6:
                    self.check(path, body, alone)
                elif what < 0.8:
                    self.leave(path, body, draw)
                elif what < 0.9:
                    self.slow(path, body, draw)
                else:
                    self.nonsense(draw)
            except Exception as error:  # a client that cannot go on is a failure, too
                self.failures.append(("client", seed, repr(error)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--model", default="models/coterie-small.gguf")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=60, help="different ones, whose answers are known")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--flat", type=float, default=0.01, help="by what share memory may grow after the first quarter")
    parser.add_argument("server", nargs="*", help="further options of coterie serve")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        template = pathlib.Path(folder) / "template.jinja"
        template.write_text(TEMPLATE)
        serve = [options.coterie, options.model, "--chat-template", template, *options.server]
        wanted = []
        # One by one, and without a cache: what each request gets alone.
        with Server(*serve, "--no-prefix-cache", "--parallel", 1) as server:
            for path, body in requests_of(options.seed, options.requests):
                wanted.append((path, body, essence(server.post(path, body))))
        with Server(*serve, "--parallel", 6, "--max-queue", 8, "--cache-memory", "24M", "--stall", 20) as server:
            soak = Soak(server, wanted, options.seconds)
            threads = [threading.Thread(target=soak.client, args=(options.seed * 1000 + n,)) for n in range(options.clients)]
            begun = time.monotonic()
            for thread in threads:
                thread.start()
            first, most = 0, 0  # of the first quarter, in which the caches fill, and of what follows
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.5)
                if time.monotonic() - begun < options.seconds / 4:
                    first = max(first, memory(server.process))
                else:
                    most = max(most, memory(server.process))
            for thread in threads:
                thread.join()
            for _ in range(50):
                if not server.get("/health")["running"]:
                    break
                time.sleep(0.1)
            grown = most / first - 1 if first else 0
            log = server.log()
            result = {"seconds": time.monotonic() - begun, **soak.counts, "memory": first, "grown": grown, "failures": soak.failures[:3],
                      "warnings": "WARNING: ThreadSanitizer" in log}
            print(json.dumps(result))
            good = not soak.failures and grown <= options.flat and not result["warnings"] and server.process.poll() is None
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
