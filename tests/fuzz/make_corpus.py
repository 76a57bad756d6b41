#!/usr/bin/env python3
"""Makes corpus/: small valid and nearly valid files, from which the fuzzers and the smoke tests start."""
import json
import pathlib
import struct

root = pathlib.Path(__file__).parent / "corpus"


def save(kind, name, data):
    (root / kind).mkdir(parents=True, exist_ok=True)
    (root / kind / name).write_bytes(data)


def safetensors(header, data=b""):
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    return struct.pack("<Q", len(text)) + text.encode() + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


save("safetensors", "empty", safetensors({}))
save("safetensors", "one", safetensors({"a": entry("F32", [2], 0, 8)}, bytes(8)))
save("safetensors", "types", safetensors({name: entry(name, [], at, at + size) for name, size, at in [
    ("F64", 8, 0), ("I64", 8, 8), ("F32", 4, 16), ("I32", 4, 20), ("F16", 2, 24), ("BF16", 2, 26), ("I16", 2, 28),
    ("I8", 1, 30), ("U8", 1, 31), ("BOOL", 1, 32), ("F8_E4M3", 1, 33), ("F8_E5M2", 1, 34)]}, bytes(35)))
save("safetensors", "metadata", safetensors(
    {"__metadata__": {"format": "pt", "k\u00e9y": "\u4e2d"}, "x.weight": entry("BF16", [2, 3], 0, 12),
     "none": entry("U8", [0, 7], 12, 12)}, bytes(12)))
save("safetensors", "padded", safetensors('{"a":{"shape":[1],"data_offsets":[0,1],"dtype":"U8"}}      ', b"a"))
save("safetensors", "overlap", safetensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, bytes(6)))
save("safetensors", "huge", safetensors({"a": entry("F64", [2**62, 2**62], 0, 8)}, bytes(8)))
save("safetensors", "cut", safetensors({"a": entry("F32", [2], 0, 8)}, bytes(8))[:-3])


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def array(kind, values):
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def gguf(pairs, tensors, version=3, alignment=32):
    """tensors: (name, dims, type, bytes)"""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    data = b""
    for name, dims, kind, content in tensors:
        data += bytes(-len(data) % alignment)
        head += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}q", *dims)
        head += struct.pack("<IQ", kind, len(data))
        data += content
    return head + bytes(-len(head) % alignment) + data if tensors else head


save("gguf", "empty", gguf([], []))
save("gguf", "one", gguf([pair("general.architecture", 8, text("llama"))], [("a", [2, 2], 0, bytes(16))]))
save("gguf", "two", gguf([pair("general.alignment", 4, struct.pack("<I", 64))],
                         [("a", [32], 8, bytes(34)), ("b", [256, 1], 12, bytes(144))], alignment=64))
save("gguf", "version2", gguf([pair("split.no", 2, struct.pack("<H", 0)), pair("split.count", 2, struct.pack("<H", 1))],
                              [("a", [1, 1, 1, 1], 1, bytes(2))], version=2))
numbers = [("u8", 0, "B", 255), ("i8", 1, "b", -1), ("u16", 2, "H", 3), ("i16", 3, "h", -3), ("u32", 4, "I", 7),
           ("i32", 5, "i", -7), ("f32", 6, "f", 0.5), ("bool", 7, "?", True), ("u64", 10, "Q", 2**63), ("i64", 11, "q", -1),
           ("f64", 12, "d", 1e300)]
save("gguf", "values", gguf([pair(name, kind, struct.pack("<" + code, value)) for name, kind, code, value in numbers]
                            + [pair(name + "s", 9, array(kind, [struct.pack("<" + code, value)] * 3))
                               for name, kind, code, value in numbers]
                            + [pair("strings", 9, array(8, [text("a"), text(""), text("b c")]))], []))
save("gguf", "big_endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
save("gguf", "overlap", gguf([], [("a", [8], 0, bytes(32)), ("b", [8], 0, bytes(32))]).replace(
    struct.pack("<IQ", 0, 32), struct.pack("<IQ", 0, 0)))
save("gguf", "lying", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60))

save("json", "config", json.dumps(
    {"model_type": "mixtral", "hidden_size": 4096, "rope_theta": 1e6, "sliding_window": None, "tie": False,
     "eos": [1, 2], "rope_scaling": {"factor": 8.0, "type": "yarn"}}).encode())
save("json", "python", b'{"time_step_limit": [0.0, Infinity], "low": -Infinity, "x": NaN, "s": "NaN \\" Infinity"}')
save("json", "float", b'{"limit": {"__float__": "Infinity"}, "list": [{"__float__": "-Infinity"}, 1]}')
save("json", "twice", b'{"a": {"b": 1, "b": 2}, "a": []}')
save("json", "deep", b"[" * 199 + b"]" * 199)
save("json", "numbers", b'[0, -1, 1.5, 1e308, 1e-400, 18446744073709551615, 9223372036854775808, -9223372036854775808]')
save("json", "text", '{"k\\u00e9y": "\\ud83d\\ude00 \u4e2d \\n"}'.encode())


def request(method, path, body=b"", **headers):
    lines = [f"{method} {path} HTTP/1.1"] + [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


save("request_head", "get", request("GET", "/v1/models?model=a%20b&x", Host="localhost:8080", Authorization="Bearer sesame"))
save("request_head", "post", request("POST", "/v1/completions", b'{"prompt":"x"}', Host="127.0.0.1", Content_Type="application/json",
                                     Content_Length=14, Origin="https://example.org"))
save("request_head", "chunked", request("POST", "/tokenize", b"5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n", Host="[::1]:1",
                                        Transfer_Encoding="chunked", X_Api_Key="sesame"))
save("request_head", "waits", request("POST", "/", b"{}", Host="x", Expect="100-continue", Content_Length=2))
save("request_head", "two", request("GET", "/health", Host="a") + request("GET", "/props", Host="a", Connection="close"))
save("request_head", "long", request("GET", "/" + "a" * 5000, Host="a"))
save("request_head", "lies", request("POST", "/", b"{}", Host="a", Content_Length="18446744073709551615"))

tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}}
chat = {"messages": [{"role": "system", "content": "Be"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                     {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                     {"role": "tool", "tool_call_id": "a", "content": "1"}]}
for name, body in {
    "chat": {**chat, "max_tokens": 3, "temperature": 0.5, "logit_bias": {"5": -1}, "stop": ["x"], "n": 2, "logprobs": True},
    "tools": {**chat, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False},
    "schema": {**chat, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {
        "type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 9}}, "required": ["a"]}}}},
    "guided": {"prompt": [[1, 2], [3]], "guided_regex": "a|b", "echo": True, "prompt_logprobs": 2, "seed": -1},
    "choice": {"prompt": "x", "guided_choice": ["a", "b"], "dry_multiplier": 1, "dry_sequence_breakers": ["\n"]},
    "responses": {"input": [{"role": "user", "content": "Hi"}, {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
                            {"type": "function_call_output", "call_id": "a", "output": "1"}],
                  "tools": [{"type": "function", "name": "f", "parameters": {}}], "text": {"format": {"type": "json_object"}}},
    "anthropic": {"system": "Be", "max_tokens": 4, "messages": [{"role": "user", "content": [
        {"type": "text", "text": "Hi"}, {"type": "tool_result", "tool_use_id": "a", "content": "1"}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"}, "thinking": {"type": "disabled"}},
    "embedding": {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 3},
    "native": {"prompt": {"prompt_string": "a"}, "n_probs": 2, "samplers": ["top_k"], "response_fields": ["a/b"]},
    "tokens": {"tokens": [1, 2], "content": "a", "with_pieces": True},
    "template": {**chat, "chat_template_kwargs": {"enable_thinking": False}, "continue_final_message": True},
}.items():
    save("request_body", name, json.dumps(body).encode())
