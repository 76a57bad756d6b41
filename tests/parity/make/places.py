"""Which folder a fixture goes to."""

# What case names call a family whose folder has another name.
SPELLINGS = {"bailingmoe2": "bailing-moe-v2", "deepseek2": "deepseek-v2", "deepseek2-v3": "deepseek-v3",
             "ernie4-5-moe": "ernie4_5-moe", "granite-hybrid": "granitemoehybrid", "llama3-rope": "llama"}


def place(data, name, kind=""):
    """DATA/FAMILY/CASE of a name FAMILY or FAMILY-CASE; `kind` ("gguf") comes before the case. A family that has no
    folder yet is taken to be the whole name."""
    families = {path.name: path.name for path in data.iterdir() if path.is_dir()} | SPELLINGS
    known = [each for each in families if name == each or name.startswith(each + "-")]
    family = max(known, key=len, default=name)
    case = "llama3-rope" if family == "llama3-rope" else name[len(family) + 1:]
    return data / families.get(family, family) / ("-".join(part for part in (kind, case) if part) or "base")
