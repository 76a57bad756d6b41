#!/usr/bin/env python3
"""Programs that people point at servers of OpenAI's API, one scenario each with `coterie serve`: what of it they can do of a
list of models, an answer, a stream, a call of a tool and its result, a structured answer, a wrong key, and a busy server that
is asked again. Those that are not installed are named as skipped; without any the test is. Node's are looked for in
COTERIE_NODE_MODULES, a folder node_modules."""

import argparse
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "serve"))
from other_python import other_python  # noqa: E402
from server import Server  # noqa: E402

# Hermes' way to write calls, in a template that knows of tools and their results.
TEMPLATE = """{% for t in tools or [] %}{{ t | tojson }}
{% endfor %}{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""
KEY = "sesame"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # litellm fetches nothing
STORY = "Tell me a story"
PARAMETERS = {"type": "object", "properties": {"good": {"type": "boolean"}}, "required": ["good"], "additionalProperties": False}


def refused(call, *words):
    try:
        call()
    except Exception as error:
        assert any(word in f"{type(error).__name__} {error}" for word in words), repr(error)
    else:
        raise AssertionError("a wrong key was let in")


def litellm_client(server, base, model):
    import litellm

    litellm.suppress_debug_info = True
    common = {"model": f"openai/{model}", "api_base": base, "api_key": KEY, "seed": 3, "max_tokens": 12}
    messages = [{"role": "user", "content": STORY}]
    whole = litellm.completion(messages=messages, **common).choices[0].message.content
    stream = litellm.completion(messages=messages, stream=True, **common)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole
    tool = {"type": "function", "function": {"name": "judge", "parameters": PARAMETERS}}
    called = litellm.completion(messages=messages, tools=[tool], tool_choice="required", parallel_tool_calls=False, **{**common, "max_tokens": 120}).choices[0].message
    assert isinstance(json.loads(called.tool_calls[0].function.arguments)["good"], bool)
    messages += [called.model_dump(include={"role", "content", "tool_calls"}),
                 {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "yes"}]
    assert litellm.completion(messages=messages, tools=[tool], tool_choice="none", **common).choices[0].finish_reason
    vectors = litellm.embedding(model=f"openai/{model}", input=["a", "b"], api_base=base, api_key=KEY, encoding_format="float").data
    assert len(vectors) == 2 and abs(sum(x * x for x in vectors[0]["embedding"]) - 1) < 1e-3
    refused(lambda: litellm.completion(messages=messages[:1], **{**common, "api_key": "wrong"}), "Authentication")


def langchain_client(server, base, model):
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings
    from pydantic import BaseModel

    class Judgement(BaseModel):
        good: bool

    chat = ChatOpenAI(model=model, base_url=base, api_key=KEY, max_tokens=120, seed=3, max_retries=0)
    whole = chat.invoke(STORY).content
    assert "".join(chunk.content for chunk in chat.stream(STORY)) == whole
    with_tool = chat.bind_tools([{"type": "function", "function": {"name": "judge", "parameters": PARAMETERS}}], tool_choice="required",
                                parallel_tool_calls=False)
    called = with_tool.invoke(STORY)
    assert isinstance(called.tool_calls[0]["args"]["good"], bool)
    chat.bind(tool_choice="none").invoke([HumanMessage(STORY), called, ToolMessage("yes", tool_call_id=called.tool_calls[0]["id"])])
    assert isinstance(chat.with_structured_output(Judgement).invoke(STORY).good, bool)
    assert len(OpenAIEmbeddings(model=model, base_url=base, api_key=KEY, check_embedding_ctx_length=False).embed_documents(["a", "b"])) == 2
    refused(lambda: ChatOpenAI(model=model, base_url=base, api_key="wrong", max_retries=0).invoke("x"), "Authentication")


def llm_client(server, base, model):
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "extra-openai-models.yaml").write_text(json.dumps([{"model_id": "ours", "model_name": model, "api_base": base,
                                                                  "api_key_name": "ours"}]))
    run = [sys.executable, "-m", "llm"]
    env = {**os.environ, "LLM_USER_PATH": str(folder)}
    (folder / "keys.json").write_text(json.dumps({"ours": KEY}))

    def ask(*words, check=True):
        return subprocess.run([*run, "-m", "ours", STORY, *words], env=env, capture_output=True, text=True, check=check)

    same = ["-o", "max_tokens", "12", "-o", "seed", "3"]
    assert ask(*same).stdout == ask(*same, "--no-stream").stdout
    (folder / "keys.json").write_text(json.dumps({"ours": "wrong"}))
    assert "key" in ask(*same, check=False).stderr
    shutil.rmtree(folder)


def pydantic_ai_client(server, base, model):
    import asyncio

    import pydantic
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    class Judgement(pydantic.BaseModel):
        good: bool

    def chat(key=KEY):
        return OpenAIChatModel(model, provider=OpenAIProvider(base_url=base, api_key=key))

    settings = {"max_tokens": 120, "seed": 3, "parallel_tool_calls": False}
    assert isinstance(Agent(chat(), output_type=NativeOutput(Judgement), model_settings=settings).run_sync(STORY).output.good, bool)
    # The answer as a call of a tool.
    assert isinstance(Agent(chat(), output_type=Judgement, model_settings=settings).run_sync(STORY).output.good, bool)
    whole = Agent(chat(), model_settings=settings).run_sync(STORY).output

    async def streamed():
        async with Agent(chat(), model_settings=settings).run_stream(STORY) as result:
            return await result.get_output()

    assert asyncio.run(streamed()) == whole
    refused(lambda: Agent(chat("wrong")).run_sync("x"), "401")


def instructor_client(server, base, model):
    import instructor
    import openai
    from pydantic import BaseModel, ConfigDict

    class Judgement(BaseModel):
        model_config = ConfigDict(extra="forbid")  # a model of a million parameters would go on with properties of its own
        good: bool

    common = {"model": model, "messages": [{"role": "user", "content": STORY}], "max_tokens": 120, "seed": 3, "max_retries": 0}
    one_call = {"parallel_tool_calls": False}
    for mode, more in ((instructor.Mode.TOOLS, one_call), (instructor.Mode.JSON_SCHEMA, {})):
        chat = instructor.from_openai(openai.OpenAI(base_url=base, api_key=KEY, max_retries=0), mode=mode).chat.completions
        assert isinstance(chat.create(response_model=Judgement, **common, **more).good, bool), mode
    partial = list(chat.create_partial(response_model=Judgement, **common))  # of the last mode
    assert isinstance(partial[-1].good, bool)
    wrong = instructor.from_openai(openai.OpenAI(base_url=base, api_key="wrong", max_retries=0))
    refused(lambda: wrong.chat.completions.create(response_model=Judgement, **common), "401", "Authentication")


def lm_eval_client(server, base, model):
    """The harness' own requests for a task: log-likelihoods of endings by their tokens' logprobs."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    os.environ["OPENAI_API_KEY"] = KEY
    # Its way for servers: prompts of token ids, by the tokenizer of the model's folder.
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([server.coterie, "convert", server.model, "--to", "bf16", "-o", f"{folder}/model"], check=True, capture_output=True)
        lm = LocalCompletionsAPI(base_url=f"{base}/completions", model=model, tokenizer=f"{folder}/model", max_length=200, num_concurrent=1)
    wanted = [("Once upon a time there was", " a girl"), ("Once upon a time there was", " xq zzt")]
    likely, unlikely = [value for value, _ in lm.loglikelihood([Instance("loglikelihood", {}, each, i) for i, each in enumerate(wanted)])]
    assert unlikely < likely < 0, (likely, unlikely)
    text = lm.generate_until([Instance("generate_until", {}, ("Once upon", {"until": ["\n"], "max_gen_toks": 8, "temperature": 0}), 0)])
    assert text[0]


NODE = """
import OpenAI from 'openai';
const [base, model, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 20 });
const messages = [{ role: 'user', content: 'Tell me a story' }];
const same = { model, messages, max_tokens: 12, seed: 3 };
if (![...(await client.models.list()).data].some((each) => each.id === model)) throw new Error('the model is not listed');
const whole = (await client.chat.completions.create(same)).choices[0].message.content;
let text = '';
for await (const chunk of await client.chat.completions.create({ ...same, stream: true })) text += chunk.choices[0]?.delta?.content ?? '';
if (text !== whole) throw new Error(`${text} is not ${whole}`);
const tools = [{ type: 'function', function: { name: 'judge', parameters: PARAMETERS } }];
const called = (await client.chat.completions.create({ ...same, max_tokens: 120, tools, tool_choice: 'required', parallel_tool_calls: false })).choices[0].message;
if (typeof JSON.parse(called.tool_calls[0].function.arguments).good !== 'boolean') throw new Error('no call');
await client.chat.completions.create({ ...same, tools, tool_choice: 'none',
  messages: [...messages, called, { role: 'tool', tool_call_id: called.tool_calls[0].id, content: 'yes' }] });
const going = await client.chat.completions.create({ ...same, max_tokens: 2000, stream: true });
for await (const chunk of going) { going.controller.abort(); break; }
try { await new OpenAI({ baseURL: base, apiKey: 'wrong', maxRetries: 0 }).models.list(); throw new Error('let in'); }
catch (error) { if (!(error instanceof OpenAI.AuthenticationError)) throw error; }
await Promise.all([1, 2, 3, 4, 5, 6].map((seed) => client.completions.create({ model, prompt: 'x', max_tokens: 40, seed })));
"""
VERCEL = """
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText, generateObject, tool, jsonSchema } from 'ai';
const [base, model, key] = process.argv.slice(2);
const chat = createOpenAICompatible({ name: 'coterie', baseURL: base, apiKey: key, supportsStructuredOutputs: true })(model);
const same = { model: chat, prompt: 'Tell me a story', maxOutputTokens: 120, seed: 3 };
const whole = (await generateText(same)).text;
let text = '';
for await (const piece of streamText(same).textStream) text += piece;
if (text !== whole) throw new Error(`${text} is not ${whole}`);
const { object } = await generateObject({ ...same, schema: jsonSchema(PARAMETERS) });
if (typeof object.good !== 'boolean') throw new Error('no object');
const tools = { judge: tool({ description: '', inputSchema: jsonSchema(PARAMETERS) }) };
const { toolCalls } = await generateText({ ...same, tools, toolChoice: 'required' });
if (typeof toolCalls[0].input.good !== 'boolean') throw new Error('no call');
"""


def node_client(script):
    def run(server, base, model):
        modules = pathlib.Path(os.environ["COTERIE_NODE_MODULES"]).resolve()
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "node_modules").symlink_to(modules)
            file = pathlib.Path(folder) / "client.mjs"
            file.write_text(script.replace("PARAMETERS", json.dumps(PARAMETERS)))
            found = subprocess.run(["node", file, base, model, KEY], cwd=folder, capture_output=True, text=True, timeout=120)
            assert found.returncode == 0, found.stderr[-3000:]
    return run


def there(needs):
    if needs.startswith("npm:"):
        modules = os.environ.get("COTERIE_NODE_MODULES", "")
        return bool(modules) and shutil.which("node") and (pathlib.Path(modules) / needs[4:]).exists()
    try:
        importlib.import_module(needs)
    except ImportError:
        return False
    return True


CLIENTS = {"litellm": ("litellm", litellm_client), "langchain-openai": ("langchain_openai", langchain_client), "llm": ("llm", llm_client),
           "pydantic-ai": ("pydantic_ai", pydantic_ai_client), "instructor": ("instructor", instructor_client), "lm-evaluation-harness": ("lm_eval.models.openai_completions", lm_eval_client),
           "openai (npm)": ("npm:openai", node_client(NODE)), "ai (npm)": ("npm:ai", node_client(VERCEL))}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coterie", default="build/release/coterie")
    parser.add_argument("--model", default="models/coterie-small.gguf")
    parser.add_argument("--only", default="", help="a client's name")
    options = parser.parse_args()
    wanted = {name: run for name, (needs, run) in CLIENTS.items() if there(needs) and options.only in ("", name)}
    if not wanted:
        other_python("none of the clients " + ", ".join(CLIENTS) + " is installed")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        template = pathlib.Path(folder) / "template.jinja"
        template.write_text(TEMPLATE)
        # Two places and a queue of two: six at once are too many, and some are asked to come again.
        # The penalty keeps a model of a million parameters from filling JSON with white space.
        with Server(options.coterie, options.model, "--chat-template", template, "--api-key", KEY, "--parallel", 2, "--max-queue", 2,
                    "--context", 1024, "--rope-scaling", "yarn", "--repeat-penalty", 1.5) as server:
            base = f"http://127.0.0.1:{server.port}/v1"
            for name, run in wanted.items():
                try:
                    run(server, base, "coterie-small")
                    print(f"{name}: passed", flush=True)
                except Exception as error:
                    failed.append(name)
                    print(f"{name}: {type(error).__name__}: {str(error)[:1000]}", flush=True)
                    traceback.print_exc()
    for name in CLIENTS:
        if name not in wanted:
            print(f"{name}: skipped, not installed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    main()
