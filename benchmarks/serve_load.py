#!/usr/bin/env python3
"""Load on a server of OpenAI's API, coterie's or another: what its users would notice. JSON on standard output.

  chat      N clients at once, each some turns of prompts of its own: tokens/s, time to the first token, gaps
  intruder  four streams, then a long prompt beside them: the longest gap of the streams, the intruder's first token
  agent     two long system prompts in turns, conversations that grow: the first token of later turns, and what their new tokens
            take alone; cached tokens
  flood     many requests at once: how fast those that are not taken are told so, and how the others fare

Prompts are made of words by a seed, so that the same seed asks the same of each server. The standard library alone."""

import argparse
import http.client
import json
import random
import statistics
import sys
import threading
import time
import urllib.parse

WORDS = ("time year people way day man thing woman life child world school state family student group country problem hand part "
         "place case week company system program question work number night point home water room mother area money story").split()


def text(words, seed):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


class Client:
    def __init__(self, url, key, model):
        self.url, self.key, self.model = urllib.parse.urlsplit(url), key, model

    def stream(self, prompt, tokens, seed):
        """What came of one streamed completion: times are seconds since it was sent."""
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "seed": seed, "stream": True, "ignore_eos": True,
                "stream_options": {"include_usage": True}}
        if self.model:
            body["model"] = self.model
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=3600)
        begun = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            response.read()
            return {"status": response.status, "refused_after": time.monotonic() - begun}
        times, usage, content = [], {}, ""
        for line in response:
            if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            if any(choice.get("text") for choice in chunk.get("choices", [])):
                times.append(time.monotonic() - begun)
                content += "".join(choice["text"] for choice in chunk["choices"])
        connection.close()
        gaps = [b - a for a, b in zip(times, times[1:])]
        return {"status": 200, "first": times[0] if times else None, "last": times[-1] if times else None, "at": [begun + t for t in times],
                "longest_gap": max(gaps, default=0), "gaps": gaps, "tokens": usage.get("completion_tokens", len(times)),
                "prompt_tokens": usage.get("prompt_tokens"), "text": content,
                "cached": (usage.get("prompt_tokens_details") or {}).get("cached_tokens")}


    def metric(self, name):
        """A gauge of /metrics, or none where the server has no such."""
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=10)
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {self.key}"} if self.key else {})
        lines = connection.getresponse().read().decode(errors="replace").splitlines()
        return next((float(line.split()[-1]) for line in lines if line.split(" ")[0].split("{")[0] == name), None)


def together(calls):
    """The results of all, each in a thread of its own."""
    results = [None] * len(calls)

    def run(i, call):
        results[i] = call()

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def spread(values):
    values = sorted(v for v in values if v is not None)
    if not values:
        return None
    return {"median": statistics.median(values), "p95": values[min(len(values) - 1, int(0.95 * len(values)))], "max": values[-1]}


def chat(client, options):
    result = {}
    for clients in options.clients:
        begun = time.monotonic()
        turns = []

        def talk(who):
            said = text(options.prompt, options.seed * 1000 + who)
            for turn in range(options.turns):
                answer = client.stream(said, options.tokens, options.seed)
                turns.append(answer)
                said += answer.get("text", "") + " " + text(16, options.seed * 1000 + who + 100 * turn)

        together([lambda who=who: talk(who) for who in range(clients)])
        seconds = time.monotonic() - begun
        result[str(clients)] = {"tokens_per_second": sum(t.get("tokens", 0) for t in turns) / seconds, "seconds": seconds,
                                "first_token": spread([t.get("first") for t in turns]),
                                "gap": spread([gap for t in turns for gap in t.get("gaps", [])])}
    return result


def intruder(client, options):
    prompt = text(options.long, options.seed + 77)
    alone = client.stream("alone " + prompt, 1, options.seed)
    streams, late = [None] * 4, {}

    def stream(i):
        streams[i] = client.stream(text(32, options.seed + i), options.tokens, options.seed)

    threads = [threading.Thread(target=stream, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(options.after)
    late["begun"] = time.monotonic()
    late.update(client.stream("beside " + prompt, 1, options.seed))
    for thread in threads:
        thread.join()
    during = [gap for s in streams for gap, at in zip(s["gaps"], s["at"][1:]) if late["begun"] <= at <= late["begun"] + (late["first"] or 0) + 1]
    return {"longest_gap": max(during, default=0), "gap": spread(during), "longest_gaps": sorted(during)[-12:],
            "floor": client.metric("coterie_stall_floor_seconds"), "first_token_alone": alone["first"], "first_token": late["first"],
            "prompt_tokens": late["prompt_tokens"], "times_alone": late["first"] / alone["first"]}


def agent(client, options):
    systems = [text(options.shared, options.seed + 500 + i) for i in range(2)]
    said, turns, known = list(systems), [], [0, 0]
    for turn in range(options.turns):
        for which in range(2):
            said[which] += " " + text(40, options.seed + turn * 2 + which)
            answer = client.stream(said[which], options.tokens, options.seed)
            turns.append({"turn": turn, "system": which, "first": answer["first"], "prompt_tokens": answer["prompt_tokens"],
                          "cached": answer["cached"], "new": answer["prompt_tokens"] - known[which]})
            said[which] += answer["text"]
            known[which] = answer["prompt_tokens"] + answer["tokens"]
    equal = together([lambda: client.stream("four at once " + systems[0], 1, options.seed) for _ in range(4)])
    # What the new tokens of a later turn take by themselves, as a prompt that nobody has sent before.
    new = statistics.median(t["new"] for t in turns if t["turn"] > 0)
    per_word = turns[0]["prompt_tokens"] / (options.shared + 40)
    alone = [client.stream(text(max(1, round(new / per_word)), options.seed + 900 + i), 1, options.seed) for i in range(5)]
    return {"turns": turns, "new_tokens": new, "new_tokens_alone": spread([a["first"] for a in alone]),
            "tokens_alone": [a["prompt_tokens"] for a in alone], "first_turn": spread([t["first"] for t in turns if t["turn"] == 0]),
            "later_turns": spread([t["first"] for t in turns if t["turn"] > 0]),
            "four_equal_at_once_cached": sorted(answer["cached"] or 0 for answer in equal)}


def flood(client, options):
    answers = together([lambda i=i: client.stream(text(32, options.seed + i), options.tokens, options.seed) for i in range(options.flood)])
    taken = [a for a in answers if a["status"] == 200]
    refused = [a for a in answers if a["status"] != 200]
    return {"taken": len(taken), "refused": len(refused), "statuses": sorted({a["status"] for a in answers}),
            "refused_after": spread([a["refused_after"] for a in refused]), "first_token": spread([a["first"] for a in taken])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scenarios = {"chat": chat, "intruder": intruder, "agent": agent, "flood": flood}
    parser.add_argument("scenario", nargs="+", choices=scenarios)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", default="")
    parser.add_argument("--model", default="", help="a name, where the server has several")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--prompt", type=int, default=128, help="chat: words of a first prompt")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--clients", type=lambda words: [int(w) for w in words.split(",")], default=[1, 4, 8, 16])
    parser.add_argument("--long", type=int, default=6000, help="intruder: words of its prompt")
    parser.add_argument("--after", type=float, default=2, help="intruder: seconds until it comes")
    parser.add_argument("--shared", type=int, default=2000, help="agent: words of a system prompt")
    parser.add_argument("--flood", type=int, default=64, help="flood: requests at once")
    options = parser.parse_args()
    client = Client(options.url, options.key, options.model)
    settings = {key: value for key, value in vars(options).items() if key != "key"}
    result = {"settings": settings, **{name: scenarios[name](client, options) for name in options.scenario}}
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
