#!/usr/bin/env python3
"""A draft model of our own for --speculate draft:, from nothing: a model writes stories, a small one with its vocabulary
is trained on them, and both are measured together.

    python3 benchmarks/own_draft.py build/release/coterie smollm2.gguf [--stories 450] [--pairs 20]

Everything is kept in build/own-draft and gone on with: the stories (an hour of one core at most), the draft's training
by recipes/draft.yaml (an hour), and at last benchmarks/speculation.py with the draft in Q8_0, greedy and drawn, on a
story whose beginning is not among those it was trained on. Needs safetensors and NumPy.
"""
import argparse
import itertools
import json
import pathlib
import random
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "own-draft"
WHO = """a baker|a lighthouse keeper|a young fox|a tailor|a gardener|a watchmaker's daughter|a retired sailor|a librarian
a shepherd|a painter|a ferryman|an old miller|a postman|a glassblower|a violinist|a robot|a beekeeper|a mapmaker
a blacksmith|a schoolteacher|a fisherman|a carpenter|a nurse|a night watchman|a cobbler|a bell ringer|an astronomer
a puppet maker|a bookbinder|a potter|a weaver|a train driver|a cook|a detective|a farmer|a boy|a girl|a grandmother
a king|a stone mason"""
WHAT = """finds a key in an old coat|hears a voice in the well|loses a map in a storm|finds a photograph in an old book
repairs a broken music box|receives a parcel without a name|finds a message in a bottle|discovers a hidden door
meets a stranger at the station|wakes up in an empty village|finds a coin in an old wall|saves a bird in winter
finds a diary in the attic|builds a bridge for a neighbour|learns the language of birds|is given a mysterious box
finds a note in an old violin|travels to the sea for the first time|writes a letter to an old friend
discovers a secret about the town"""


def write_stories(arguments):
    listed = [text.replace("\n", "|").split("|") for text in (WHO, WHAT)]
    pairs = list(itertools.product(*listed))
    random.Random(5).shuffle(pairs)
    prompts = [f"Write a short story about {who} who {what}." for who, what in pairs[:arguments.stories]]
    lines = "".join(json.dumps({"messages": [{"role": "user", "content": prompt}]}) + "\n" for prompt in prompts)
    (FOLDER / "prompts.jsonl").write_text(lines)
    subprocess.run([arguments.coterie, "run", arguments.model, "--jsonl", FOLDER / "prompts.jsonl", "-o",
                    FOLDER / "answers.jsonl", "--batch", "16", "-n", "320", "--seed", "11"], check=True)
    return prompts, [json.loads(line)["text"] for line in (FOLDER / "answers.jsonl").read_text().splitlines()]


def write_tokens(arguments, prompts, answers):
    """Prompt and answer as the model's template puts them; what it says of chats is the model's own business."""
    import numpy
    from safetensors.numpy import save_file
    ids = []
    for prompt, answer in zip(prompts, answers):
        text = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n\n")
        shown = subprocess.run([arguments.coterie, "tokenize", arguments.model, "--raw", "--json"], input=text,
                               check=True, capture_output=True, text=True).stdout
        ids += json.loads(shown)["tokens"]
    save_file({"tokens": numpy.array(ids, numpy.int32)}, FOLDER / "stories.safetensors")
    print(f"{len(answers)} stories of {len(ids):,} tokens", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("coterie")
    parser.add_argument("model", help="SmolLM2-135M-Instruct, whose chat template the stories are written with")
    parser.add_argument("--stories", type=int, default=450)
    parser.add_argument("--pairs", type=int, default=20)
    arguments = parser.parse_args()
    arguments.coterie, arguments.model = (str(pathlib.Path(each).resolve()) for each in
                                          (arguments.coterie, arguments.model))
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "model").exists():
        subprocess.run([arguments.coterie, "convert", arguments.model, "-o", FOLDER / "model", "--to", "bf16",
                        "--requantize"], check=True)
    if not (FOLDER / "stories.safetensors").exists():
        write_tokens(arguments, *write_stories(arguments))
    draft = FOLDER / "draft.gguf"
    if not draft.exists():
        subprocess.run([arguments.coterie, "train", "--resume", FOLDER / "run"] if (FOLDER / "run").exists() else
                       [arguments.coterie, "train", ROOT / "recipes" / "draft.yaml", "-o", FOLDER / "run"], check=True)
        newest = max((FOLDER / "run" / "checkpoints").iterdir(), key=lambda folder: folder.name)
        subprocess.run([arguments.coterie, "convert", newest, "-o", draft, "--to", "q8_0"], check=True)
    for how in (["--greedy"], ["--seed", "3"]):
        subprocess.run([sys.executable, ROOT / "benchmarks" / "speculation.py", arguments.coterie, arguments.model,
                        "--kind", f"draft:{draft}", "--prompts", "story", "--pairs", str(arguments.pairs),
                        "--acceptance", *how], check=True)


if __name__ == "__main__":
    main()
