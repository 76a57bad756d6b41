import assert from "node:assert/strict";
import test from "node:test";
import { render, safeAddress } from "../../src/markdown";

type Node = { type: unknown; props: Record<string, unknown> & { children?: unknown } };
const PASSIVE = new Set(["h4", "h5", "h6", "p", "pre", "code", "blockquote", "ol", "ul", "li", "div", "table", "thead", "tbody", "tr",
  "th", "td", "hr", "br", "strong", "em", "del", "a"]);

/** All elements of a tree, fragments aside, and its text. */
function walk(node: unknown, elements: Node[] = []): { elements: Node[]; text: string } {
  let text = "";
  if (Array.isArray(node)) for (const each of node) text += walk(each, elements).text;
  else if (node && typeof node === "object") {
    const own = node as Node;
    if (typeof own.type === "string") elements.push(own);
    text += walk(own.props.children, elements).text;
  } else if (typeof node === "string" || typeof node === "number") text += node;
  return { elements, text };
}

test("prose becomes what it says", () => {
  const { elements, text } = walk(render("# Title\n\nSome **bold** and `a < b` &lt;3\n\n1. one\n2. two\n\n| a | b |\n|---|---|\n| 1 | 2 |"));
  for (const name of ["h4", "strong", "code", "ol", "li", "table", "th", "td"]) assert.ok(elements.some((e) => e.type === name), name);
  assert.match(text, /a < b <3/);
});

const ATTACKS = [
  "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>", "<svg><script>alert(1)</script></svg>",
  "<iframe src=javascript:alert(1)>", "<a href=\"javascript:alert(1)\">x</a>", "[x](javascript:alert(1))",
  "[x](  JaVaScRiPt:alert(1))", "[x](java\tscript:alert(1))", "[x](data:text/html;base64,PHNjcmlwdD4=)", "[x](vbscript:msgbox)",
  "![x](https://elsewhere.example/pixel.png)", "![x](data:image/svg+xml;base64,PHN2Zz4=)", "![](//elsewhere.example/p.gif)",
  "<javascript:alert(1)>", "[x]: javascript:alert(1)\n\n[x]", "<style>*{display:none}</style>", "<form action=https://elsewhere.example>",
  "a <b onclick=alert(1)>b</b> c", "<math href=javascript:alert(1)>", "```html\n<script>alert(1)</script>\n```", "`<script>`",
  "| <script>alert(1)</script> | b |\n|---|---|\n| <img src=x onerror=alert(1)> | 2 |", "> <script>alert(1)</script>",
];

test("nothing that a model writes runs, or is fetched", () => {
  for (const attack of ATTACKS) {
    for (const { type, props } of walk(render(attack)).elements) {
      assert.ok(PASSIVE.has(type as string), `${attack} makes a ${String(type)}`);
      for (const [name, value] of Object.entries(props)) {
        assert.ok(!/^on/i.test(name) && name !== "dangerouslySetInnerHTML" && name !== "style" && name !== "src", `${attack}: ${name}`);
        if (name === "href") assert.match(String(value), /^(https?:|mailto:)/i, attack);
      }
    }
  }
});

test("HTML is shown as the text it is", () => {
  assert.match(walk(render("<b>x</b> and <script>alert(1)</script>")).text, /<script>alert\(1\)<\/script>/);
});

test("addresses", () => {
  assert.equal(safeAddress("https://a.example/"), "https://a.example/");
  assert.equal(safeAddress("mailto:a@b.example"), "mailto:a@b.example");
  for (const bad of ["javascript:alert(1)", "\u0001javascript:alert(1)", " data:text/html,x", "file:///etc/passwd", "//a.example", "x"])
    assert.equal(safeAddress(bad), null, bad);
});
