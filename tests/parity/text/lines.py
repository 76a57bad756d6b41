"""The 10,000 lines that tokenizers are compared on: the same lines on every machine and every Python.

    python3 lines.py OUT.jsonl [COUNT]        one JSON string a line

Prose, code, numbers, many scripts, emoji, combining marks, odd white space, special tokens written out, and plain
random code points. Nothing here is read from a file, so the lines are these and no others.
"""

import json
import sys


class Random:
    """A 64-bit linear congruential generator (Knuth's MMIX constants); Python's own may change between versions."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return self.state >> 33

    def below(self, n):
        return self.next() % n

    def pick(self, items):
        return items[self.below(len(items))]

    def chance(self, percent):
        return self.below(100) < percent


WORDS = """the of and to in that was his he it with is for as had you not be her on at by which have or from this him but
all she they were my are me one their so an said them we who would been will no when there if more out up into do any
your what has man could other than our some very time upon about may its only now like little then can made should did
us such great before must two these see know over much down after first good men own never most old shall day where
those came come himself way work without go make well through being long say might how am too every under again even
matter nature experts router attention gradient tokenization antidisestablishmentarianism Massachusetts O'Brien
naïve café jalapeño Zürich coöperate façade résumé Übermut smörgåsbord London Paris Tokyo GPU CPU NASA HTTP iPhone
don't can't won't I'm you're they've we'll he'd it's DON'T CAN'T I'LL y'all'd've rock'n'roll 'tis o'clock dogs' """.split()

SCRIPTS = {
    "russian": "Все счастливые семьи похожи друг на друга каждая несчастливая семья несчастлива по своему",
    "greek": "Ὅμηρος ἄνδρα μοι ἔννεπε μοῦσα πολύτροπον ὃς μάλα πολλὰ πλάγχθη",
    "chinese": "学而时习之不亦说乎有朋自远方来不亦乐乎人不知而不愠不亦君子乎",
    "japanese": "吾輩は猫である名前はまだ無いどこで生れたかとんと見当がつかぬコンピューター",
    "korean": "모든 국민은 법 앞에 평등하다 누구든지 성별 종교에 의하여 차별을 받지 아니한다",
    "arabic": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق وقد وهبوا عقلا وضميرا",
    "hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם",
    "hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है",
    "bengali": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "tamil": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்",
    "georgian": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი",
    "armenian": "Բոլոր մարդիկ ծնվում են ազատ ու հավասար",
    "amharic": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው",
    "vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền",
    "turkish": "Bütün insanlar hür haysiyet ve haklar bakımından eşit doğarlar İstanbul ıssız",
    "polish": "Zażółć gęślą jaźń wszyscy ludzie rodzą się wolni i równi",
    "german": "Alle Menschen sind frei und gleich an Würde und Rechten geboren größer Straße",
    "french": "Tous les êtres humains naissent libres et égaux en dignité où l'œuvre çà",
    "khmer": "មនុស្សទាំងអស់កើតមកមានសេរីភាព",
    "tibetan": "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས",
    "cherokee": "ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᏠᏱ ᎤᎾᏕᎿ",
    "gothic": "𐌰𐌻𐌻𐌰𐌹 𐌼𐌰𐌽𐌽𐌰𐌽𐍃 𐍆𐍂𐌴𐌹𐌾𐌰𐌹",
    "mathematics": "𝓐𝓑𝓒 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ∀x∈ℝ ∃y ⌈x⌉≤y ∑∏∫√∞≠≈ αβγδ ℵ₀ x²+y³=z⁴",
}

EMOJI = ["😀", "🎉", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇯🇵", "1️⃣", "❤️", "❤", "🧑🏿‍🚀", "☃️", "🫠", "👁️‍🗨️", "🤷‍♀️", "©", "™", "⚡", "🏴󠁧󠁢󠁳󠁣󠁴󠁿"]

SPACES = [" ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", "\u00a0", "\u2003", "\u3000", "\u200b",
          "\u200d", "\ufeff", "\u2028", "\u2029", "\u0085", "\x0b", "\x0c", " \n", "\n ", " \t ", "\u202f", "\u1680", "\u180e"]

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>",
           "<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_7|>", "<think>", "</think>", "<tool_call>",
           "</tool_call>", "<s>", "</s>", "<unk>", "<repo_name>", "<file_sep>", "<jupyter_code>", "<|fim_prefix|>",
           "<|fim_middle|>", "<|vision_start|>", "<|image_pad|>", "[INST]", "[/INST]", "<bos>", "<start_of_turn>",
           "<｜begin▁of▁sentence｜>", "<｜User｜>", "<|channel|>", "<|return|>", "<|im_start", "im_end|>", "<|", "|>", "<0x0A>", "▁", "Ġ", "Ċ", "[UNK]"]

CODE = ["def {w}(self, {w}: int = {n}) -> None:", "    return {w}[{n}] + {w}['{w}']", "for (int i = 0; i < {n}; ++i) {{ {w}[i] *= {n}.5f; }}",
        "#include <{w}/{w}.h>", "\t\tif ({w} != nullptr && {w}->{w}()) {{", "SELECT {w}, COUNT(*) FROM {w} WHERE {w} >= '{n}';",
        "const {w} = async ({w}) => await {w}.{w}(`${{{w}}}`);", "<div class=\"{w}-{w}\" id='{w}{n}'>{w}&nbsp;</div>",
        "{w}_{w}__{n} = lambda *args, **kwargs: ({n}, {w})", "// TODO({w}): {w} {w} {w}!!!", "let mut {w}: Vec<&'static str> = vec![];",
        "\\begin{{{w}}} \\frac{{{n}}}{{{w}}} \\end{{{w}}}", "{{\"{w}\": [{n}, {n}.{n}e-{n}, null, true], \"{w}\": \"\\u00e9\\n\"}}",
        "$ git commit -m \"{w}: {w}\" && rm -rf ./{w}/*.{w} | grep -E '^{n}$'", "https://www.{w}.com/{w}?{w}={n}&x=%20#{w}", "        ", "}}}}", "/* {w} */",
        "@{w}.{w}\nclass {w}({w}):\n    \"\"\"{w} {w}.\"\"\"\n\n    x = {n}\n", "0x{n}ABCDEF 0b1010 1_000_000 {n}.{n}.{n}-rc{n}", "#!/usr/bin/env {w}\r\n"]

# Blocks for random code points; surrogates are no characters.
BLOCKS = [(0x20, 0x7f), (0x20, 0x7f), (0xa0, 0x250), (0x250, 0x370), (0x300, 0x370), (0x370, 0x530), (0x590, 0x780), (0x900, 0xe00),
          (0xe00, 0x1000), (0x1100, 0x1200), (0x1e00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2c00), (0x3000, 0x3100), (0x4e00, 0x9fff),
          (0xac00, 0xd7a4), (0xe000, 0xe010), (0xf900, 0xfb00), (0xfe00, 0x10000), (0x10000, 0x10400), (0x1d400, 0x1d800), (0x1f000, 0x1fb00),
          (0x20000, 0x20100), (0xe0000, 0xe0080), (0x0, 0x20), (0x7f, 0xa0)]


def prose(r):
    words = [r.pick(WORDS) for _ in range(3 + r.below(20))]
    if r.chance(40):
        words[0] = words[0].capitalize()
    text = words[0]
    for word in words[1:]:
        text += r.pick([" ", " ", " ", " ", " ", ", ", "; ", " - ", "—", "... ", " (", ") ", "\" ", " \"", ": ", "/", "'"])
        text += word
    return text + r.pick([".", "!", "?", "", "?!", "...", " .", ".\n", ".\"", "\n\n"])


def code(r):
    lines = []
    for _ in range(1 + r.below(4)):
        text = r.pick(CODE)
        while "{w}" in text:
            text = text.replace("{w}", r.pick(WORDS).replace("'", ""), 1)
        while "{n}" in text:
            text = text.replace("{n}", str(r.below(10 ** (1 + r.below(6)))), 1)
        lines.append("    " * r.below(4) + text.replace("{{", "{").replace("}}", "}"))
    return "\n".join(lines)


def numbers(r):
    out = []
    for _ in range(1 + r.below(6)):
        out.append(r.pick([str(r.next()), str(r.below(100000)), "%d,%03d,%03d" % (r.below(999), r.below(1000), r.below(1000)),
                           "%d.%d" % (r.below(1000), r.below(10 ** 6)), "½", "٣٤٥", "१२३", "Ⅻ", "²³", "一二三", "%d%%" % r.below(101), "$%d" % r.below(9999),
                           "-%d" % r.below(999), "1e-%d" % r.below(20), "%02d:%02d" % (r.below(24), r.below(60))]))
    return r.pick([" ", "", "+", " = ", "\t"]).join(out)


def script(r):
    words = SCRIPTS[r.pick(sorted(SCRIPTS))].split()
    if len(words) == 1:
        start = r.below(len(words[0]))
        return words[0][start:start + 1 + r.below(30)]
    return r.pick([" ", " ", " ", "", "、", ", "]).join(r.pick(words) for _ in range(1 + r.below(10)))


def emoji(r):
    return "".join(r.pick(EMOJI) + r.pick(["", "", " ", "!", r.pick(WORDS)]) for _ in range(1 + r.below(8)))


def spaces(r):
    text = ""
    for _ in range(1 + r.below(10)):
        text += "".join(r.pick(SPACES) for _ in range(1 + r.below(4)))
        text += r.pick([r.pick(WORDS), "", ".", "1", "é", "x="])
    return text + r.pick(SPACES)


def special(r):
    text = ""
    for _ in range(1 + r.below(6)):
        text += r.pick(SPECIAL) + r.pick(["", " ", "\n", r.pick(WORDS), " " + r.pick(WORDS) + " "])
    return text


def combining(r):
    text = ""
    for _ in range(2 + r.below(20)):
        text += r.pick("aeiounAEIOUçñ가한글カハがे க") + "".join(chr(0x300 + r.below(0x70)) for _ in range(r.below(3)))
        text += r.pick(["", "", "", " ", "\u3099", "\u309a", "\u0323\u0302", "\u1161", "\u11a8", "ﬁ", "Å", "Ω", "K"])
    return text


def anything(r):
    text = ""
    for _ in range(1 + r.below(30)):
        low, high = r.pick(BLOCKS)
        text += chr(low + r.below(high - low))
    return text


def repeated(r):
    return r.pick(["a", " ", "\n", "=", "-", "é", "哈", "😀", "ab", ". ", "0", "\t", "the ", "A", "'s", "\r\n"]) * (1 + r.below(120))


def mixed(r):
    return r.pick(["", " ", "\n"]).join(r.pick(KINDS[:-1])(r) for _ in range(2 + r.below(3)))


KINDS = [prose, prose, prose, code, code, script, script, script, emoji, spaces, special, numbers, combining, anything, repeated, mixed]


def lines(count=10000):
    r = Random(20240607)
    return [KINDS[i % len(KINDS)](r) for i in range(count)]


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        for line in lines(int(sys.argv[2]) if len(sys.argv) > 2 else 10000):
            file.write(json.dumps(line) + "\n")
