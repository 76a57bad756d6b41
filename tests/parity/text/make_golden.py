"""Writes the golden files that the tests of src/text read.

    python3 make_golden.py [SmolLM2.gguf]

tests/unit/text/data: a tiny byte-level BPE tokenizer trained here with its ids, the small templates and expressions with
what transformers renders. With the GGUF file also tests/parity/text/smollm2.json: 300 of the 10,000 lines with their ids.
Needs the Python packages tokenizers, transformers, jinja2, and gguf for the GGUF file.
"""

import json
import pathlib
import sys

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import compare_ids  # noqa: E402
import compare_templates as templates  # noqa: E402
import lines  # noqa: E402
from expressions import EXPRESSIONS  # noqa: E402

DATA = HERE.parents[1] / "unit" / "text" / "data"


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def sample(count):
    """Lines of every kind, spread over the whole set."""
    every = lines.lines()
    short = [line for line in every if len(line) < 400]
    return [short[i * len(short) // count] for i in range(count)]


def tiny_tokenizer():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|turn|>"]
    tokenizer.train_from_iterator(lines.lines(2000), trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 0)])
    folder = DATA / "tiny_bpe"
    dump(folder / "tokenizer.json", json.loads(tokenizer.to_str()))
    texts = sample(150) + ["", " ", "<|turn|>user\nHi<|end|>", "a<tool>b <|begin|>", "<|turn|><|turn|>"]
    dump(folder / "golden.json", {"lines": texts, **{part: [row[part] for row in compare_ids.reference(tokenizer, texts)] for part in ("ids", "plain", "text")}})


def golden_templates():
    cases = []
    for path in sorted((DATA / "templates").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for conversation in templates.CONVERSATIONS:
            for variables, generate in (("plain", True), ("plain", False), ("tools", True), ("no thinking", True)):
                if variables != "plain" and conversation not in ("user", "turns", "tool call", "thinking"):
                    continue
                got = templates.expected(source, templates.CONVERSATIONS[conversation], templates.VARIABLES[variables], generate)
                cases.append([path.stem, conversation, variables, generate, got.get("text")])
    as_text = lambda table: {key: json.dumps(value, ensure_ascii=False) for key, value in table.items()}
    dump(DATA / "templates" / "golden.json", {"conversations": as_text(templates.CONVERSATIONS), "variables": as_text(templates.VARIABLES), "cases": cases})

    messages, extra = templates.CONVERSATIONS["two tool calls"], {"tools": [templates.WEATHER], **templates.VARIABLES["documents"]}
    rows = [[source, templates.expected(source, messages, extra, True).get("text")] for source in EXPRESSIONS if "strftime" not in source]
    dump(DATA / "expressions.json", {"messages": json.dumps(messages), "extra": json.dumps(extra), "cases": rows})


def smollm2(path):
    tokenizer, _ = compare_ids.from_gguf(path)
    texts = sample(300)
    rows = compare_ids.reference(tokenizer, texts)
    dump(HERE / "smollm2.json", {"lines": texts, "plain": [row["plain"] for row in rows], "text": [row["text"] for row in rows]})


if __name__ == "__main__":
    tiny_tokenizer()
    golden_templates()
    if len(sys.argv) > 1:
        smollm2(sys.argv[1])
