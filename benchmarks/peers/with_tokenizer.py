#!/usr/bin/env python3
"""Copies a GGUF file without a tokenizer, such as `coterie bench --shape … --write` makes, and gives it another file's, so
that servers take it. Tokens beyond that vocabulary are words of their number: random weights write them too.

    benchmarks/peers/with_tokenizer.py shape.gguf smollm2.gguf -o served.gguf        (PyPI's gguf and numpy)"""
import argparse
import os

import gguf


def copied(writer, field, keep=None):
    """A field of the other file, as it is there; of a list, `keep` makes the values."""
    kind = field.types[0]
    value = field.contents()
    if kind == gguf.GGUFValueType.ARRAY:
        writer.add_array(field.name, keep(value) if keep else value)
    else:
        writer.add_key_value(field.name, value, kind)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("tokenizer", help="a GGUF file that has one")
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    model, other = gguf.GGUFReader(arguments.model), gguf.GGUFReader(arguments.tokenizer)
    embedding = next(tensor for tensor in model.tensors if tensor.name == "token_embd.weight")
    rows = int(embedding.shape[1])
    written = arguments.output + ".part"
    writer = gguf.GGUFWriter(written, model.fields["general.architecture"].contents())
    for field in model.fields.values():
        if not field.name.startswith(("GGUF.", "tokenizer.")) and field.name != "general.architecture":
            copied(writer, field)
    filled = {
        "tokenizer.ggml.tokens": lambda tokens: (tokens + [f"w{i}" for i in range(len(tokens), rows)])[:rows],
        "tokenizer.ggml.token_type": lambda types: (types + [int(gguf.TokenType.NORMAL)] * (rows - len(types)))[:rows],
        "tokenizer.ggml.scores": lambda scores: (scores + [0.0] * (rows - len(scores)))[:rows],
    }
    for field in other.fields.values():
        if field.name.startswith("tokenizer."):
            copied(writer, field, filled.get(field.name))
    for tensor in model.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()
    os.rename(written, arguments.output)


if __name__ == "__main__":
    main()
