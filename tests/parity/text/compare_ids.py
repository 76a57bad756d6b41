"""Ids of src/text against the Hugging Face `tokenizers` package, on the lines of lines.py.

    python3 compare_ids.py PROBE TOKENIZER... [--gguf FILE.gguf] [--count 10000] [--work FOLDER]

PROBE is the built text_probe. Each TOKENIZER is a folder or a tokenizer.json. It is compared twice: as it is, and, where
a GGUF file could hold it, as the vocabulary that the file would carry, from which src/text has to build the same thing.
For a GGUF file the reference is made here from the file's tokens and merges with the parts of the published tokenizer.
Needs the Python packages tokenizers, and gguf for --gguf. Exit code 1 when a single id differs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import tokenizers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lines  # noqa: E402

# How the parts of a published tokenizer.json are called in a GGUF file.
PRE_BY_PATTERN = [("\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*", "llama-bpe"), ("\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*", "qwen2"),
                  ("[\\p{Lu}\\p{Lt}", "gpt-4o"), ("[一-龥", "deepseek-v3")]


def reference(tokenizer, texts):
    rows = []
    for text in texts:
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        rows.append({"ids": tokenizer.encode(text).ids, "plain": plain,
                     "text": tokenizer.decode(plain, skip_special_tokens=False)})
    return rows


def ours(probe, path, lines_path):
    out = subprocess.run([probe, "ids", str(path), str(lines_path)], capture_output=True, text=True)
    if out.returncode:
        sys.exit(f"{path}: {out.stderr}")
    return [json.loads(line) for line in out.stdout.split("\n")[:-1]]


def report(name, want, got, texts, parts=("ids", "plain", "text")):
    bad = [i for i in range(len(texts)) if any(want[i][part] != got[i][part] for part in parts)]
    tokens = sum(len(row["ids"]) for row in want)
    print(f"{name}: {len(texts)} lines, {tokens} ids, {len(bad)} lines differ", flush=True)
    for i in bad[:5]:
        print(f"  line {i}: {texts[i]!r}")
        for part in parts:
            if want[i][part] != got[i][part]:
                print(f"    {part}: expected {want[i][part]!r}\n    {part}: found    {got[i][part]!r}")
    return len(bad)


def scores(model, kinds):
    """Scores that say what the merges say: a token that is made earlier has the higher one; user-defined tokens have 0."""
    out = [0.0 if kind in (3, 4) else -1e9 for kind in kinds]
    for rank, merge in enumerate(model["merges"]):
        i = model["vocab"][merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)]
        out[i] = max(out[i], -float(rank + 1))
    return out


def as_gguf(json_path):
    """The vocabulary that a GGUF converter writes for a tokenizer.json, or None when it has no name for its parts."""
    spec = json.loads(pathlib.Path(json_path).read_text(encoding="utf-8"))
    model = spec["model"]
    if model["type"] != "BPE":
        return None
    tokens = {token: i for token, i in model["vocab"].items()}
    added = {token["id"]: token for token in spec["added_tokens"]}
    by_id = {i: token for token, i in tokens.items()} | {i: token["content"] for i, token in added.items()}
    size = max(by_id) + 1
    kinds = [4 if i in added and not added[i]["special"] else 3 if i in added else 1 for i in range(size)]
    out = {"tokens": [by_id.get(i, f"[PAD{i}]") for i in range(size)]}
    if model.get("byte_fallback"):
        out |= {"model": "llama", "unknown": tokens[model["unk_token"]]}
        for i in range(256):
            kinds[tokens[f"<0x{i:02X}>"]] = 6
        kinds[out["unknown"]] = 2
        out["scores"] = scores(model, kinds)
        out["add_space_prefix"] = "Prepend" in json.dumps(spec["normalizer"])
        out["add_bos"] = spec["post_processor"]["type"] == "TemplateProcessing"
        out["bos"] = next(i for i, token in added.items() if token["content"] in ("<s>", "<bos>"))
    else:
        pattern = json.dumps(spec["pre_tokenizer"], ensure_ascii=False).replace("\\\\", "\\")
        pre = next((name for part, name in PRE_BY_PATTERN if part in pattern), None)
        if pre is None:
            return None
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        out |= {"model": "gpt2", "pre": pre, "merges": merges, "add_bos": False}
    out["token_type"] = kinds
    return out


def from_gguf(path):
    """SmolLM2's own tokenizer from its GGUF: tokens and merges of the file, the parts of the published tokenizer.json
    (digits one by one, then GPT-2's byte level)."""
    import gguf
    fields = gguf.GGUFReader(path).fields
    get = lambda key: fields[f"tokenizer.ggml.{key}"].contents() if f"tokenizer.ggml.{key}" in fields else None
    assert get("model") == "gpt2" and get("pre") == "smollm", (get("model"), get("pre"))
    tokens, kinds = get("tokens"), get("token_type")
    model = tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, [tuple(m.split(" ")) for m in get("merges")])
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds) if k == 3])
    made.add_tokens([tokenizers.AddedToken(t, normalized=False) for t, k in zip(tokens, kinds) if k == 4])
    vocabulary = {"model": get("model"), "pre": get("pre"), "tokens": tokens, "token_type": kinds, "merges": get("merges"),
                  "bos": get("bos_token_id"), "eos": get("eos_token_id"), "add_bos": get("add_bos_token")}
    return made, vocabulary


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("probe")
    parser.add_argument("tokenizers", nargs="*", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
    options = parser.parse_args()
    texts = lines.lines(options.count)
    lines_path = options.work / "lines.jsonl"
    lines_path.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    vocabulary_path = options.work / "compare.vocabulary.json"
    bad = 0
    if options.gguf:
        made, vocabulary = from_gguf(options.gguf)
        vocabulary_path.write_text(json.dumps(vocabulary), encoding="utf-8")
        bad += report(f"{options.gguf.name}", reference(made, texts), ours(options.probe, vocabulary_path, lines_path), texts)
    for path in options.tokenizers:
        json_path = path / "tokenizer.json" if path.is_dir() else path
        made = tokenizers.Tokenizer.from_file(str(json_path))
        want = reference(made, texts)
        bad += report(f"{path}", want, ours(options.probe, json_path, lines_path), texts)
        vocabulary = as_gguf(json_path)
        if vocabulary is None:
            print(f"{path}: a GGUF file has no name for its parts")
            continue
        vocabulary_path.write_text(json.dumps(vocabulary), encoding="utf-8")
        bad += report(f"{path} as GGUF", want, ours(options.probe, vocabulary_path, lines_path), texts, ("plain", "text"))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
