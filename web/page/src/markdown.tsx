// Markdown as a tree of elements. Nothing of it is ever parsed as HTML: HTML that a model writes is shown as the text it
// is, pictures of other places are links, and links are http, https or mailto alone.
import { type Token, type Tokens, lexer } from "marked";
import { Component, type ComponentChildren, Fragment } from "preact";

const ALLOWED = /^(https?:|mailto:)/i;

export function safeAddress(address: string): string | null {
  // Browsers pass over control characters and spaces at the beginning, and so must this.
  const plain = [...address].filter((c) => c.charCodeAt(0) > 32).join("");
  return ALLOWED.test(plain) ? plain : null;
}

const unescape: Record<string, string> = { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&amp;": "&" };
const plain = (text: string): string => text.replace(/&(?:lt|gt|quot|#39|amp);/g, (entity) => unescape[entity]!);

function link(address: string, children: ComponentChildren): ComponentChildren {
  const safe = safeAddress(address);
  if (!safe) return <>{children}</>;
  return <a href={safe} target="_blank" rel="noopener noreferrer nofollow">{children}</a>;
}

function inline(tokens: Token[] | undefined): ComponentChildren {
  return (tokens ?? []).map((token, i) => <Fragment key={i}>{span(token)}</Fragment>);
}

function span(token: Token): ComponentChildren {
  const inner = "tokens" in token ? (token.tokens as Token[] | undefined) : undefined;
  switch (token.type) {
    case "strong": return <strong>{inline(inner)}</strong>;
    case "em": return <em>{inline(inner)}</em>;
    case "del": return <del>{inline(inner)}</del>;
    case "codespan": return <code>{(token as Tokens.Codespan).text}</code>;
    case "br": return <br />;
    case "link": return link((token as Tokens.Link).href, inline(inner));
    case "image": return link((token as Tokens.Image).href, `[picture: ${(token as Tokens.Image).text || "without a name"}]`);
    case "escape": return plain((token as Tokens.Escape).text);
    case "html": return token.raw;
    case "text": return inner ? inline(inner) : plain((token as Tokens.Text).text);
    default: return token.raw;
  }
}

function item(each: Tokens.ListItem, i: number): ComponentChildren {
  return <li key={i}>{each.task ? (each.checked ? "☑ " : "☐ ") : ""}{blocks(each.tokens)}</li>;
}

function table(token: Tokens.Table): ComponentChildren {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Table">
      <table>
        <thead><tr>{token.header.map((cell, i) => <th key={i} scope="col">{inline(cell.tokens)}</th>)}</tr></thead>
        <tbody>
          {token.rows.map((row, r) => <tr key={r}>{row.map((cell, i) => <td key={i}>{inline(cell.tokens)}</td>)}</tr>)}
        </tbody>
      </table>
    </div>
  );
}

function block(token: Token): ComponentChildren {
  switch (token.type) {
    case "space": case "def": return null;
    case "heading": {
      // The page's own headings are above those of an answer.
      const Level = `h${Math.min((token as Tokens.Heading).depth + 3, 6)}` as "h4";
      return <Level>{inline((token as Tokens.Heading).tokens)}</Level>;
    }
    case "paragraph": return <p>{inline((token as Tokens.Paragraph).tokens)}</p>;
    case "code": return <pre tabIndex={0}><code>{(token as Tokens.Code).text}</code></pre>;
    case "blockquote": return <blockquote>{blocks((token as Tokens.Blockquote).tokens)}</blockquote>;
    case "list": {
      const list = token as Tokens.List;
      return list.ordered
        ? <ol start={Number(list.start) || 1}>{list.items.map(item)}</ol>
        : <ul>{list.items.map(item)}</ul>;
    }
    case "table": return table(token as Tokens.Table);
    case "hr": return <hr />;
    case "html": return <p class="raw">{token.raw}</p>;
    default: return <>{span(token)}</>;
  }
}

function blocks(tokens: Token[]): ComponentChildren {
  return tokens.map((token, i) => <Fragment key={i}>{block(token)}</Fragment>);
}

/** A text as a tree, in Markdown. */
export function render(text: string): ComponentChildren {
  return blocks(lexer(text, { gfm: true, breaks: true }));
}

export class Markdown extends Component<{ text: string }> {
  override shouldComponentUpdate(next: { text: string }): boolean {
    return next.text !== this.props.text;
  }
  render({ text }: { text: string }) {
    return <div class="prose">{render(text)}</div>;
  }
}
