"""Stand-ins for the programs of referees: they read what the real ones read, ask the server, write what those write."""

from __future__ import annotations

import sys
from pathlib import Path

_ASK = """
import json, os, sys, urllib.request

def ask(url, key, model, messages, more):
    body = json.dumps({"model": model, "messages": messages, **more}).encode()
    request = urllib.request.Request(url + "/chat/completions", body, {"Authorization": "Bearer " + key})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]["content"]
"""

GARAK = (
    _ASK
    + """
flag, path = sys.argv[1:]
assert flag == "--config"
config = json.load(open(path))
plugins, run = config["plugins"], config["run"]
options = plugins["generators"]["openai"]["OpenAICompatible"]
assert plugins["target_type"] == "openai.OpenAICompatible" and not plugins["extended_detectors"]
report = os.path.join(config["reporting"]["report_dir"], config["reporting"]["report_prefix"] + ".report.jsonl")
rows = [{"entry_type": "init", "garak_version": "0.0.fake"}]
for name in run["spec"]["include"]:
    if name == "probes.no.Such":
        print("unknown probe")
        sys.exit(0)
    if name == "probes.left.Out":
        continue
    answers = [
        ask(options["uri"], os.environ["OPENAICOMPATIBLE_API_KEY"], plugins["target_name"],
            [{"role": "user", "content": f"{name} {i}"}],
            {"temperature": options["temperature"], "max_tokens": options["max_tokens"], "seed": options["seed"]})
        for i in range(run["soft_probe_prompt_cap"])
    ]
    rows.append({"entry_type": "eval", "probe": name.removeprefix("probes."), "detector": "some.Detector", "passed": 1,
                 "fails": len(answers) - 1, "nones": 2, "total_evaluated": len(answers), "total_processed": 99})
if "broken.Off" not in str(run["spec"]):
    rows.append({"entry_type": "completion"})
with open(report, "w") as out:
    out.writelines(json.dumps(row) + "\\n" for row in rows)
print("done, all of it")
"""
)

INSPECT = (
    _ASK
    + """
words = sys.argv[1:]
file, at, task = words[1].partition("@")  # the real one takes no absolute path without a task's name
assert words[0] == "eval" and os.path.isfile(file) and task == "refusals"
flags = dict(zip(words[2:-1], words[3:]))
options = dict(w.split("=", 1) for i, w in enumerate(words) if words[i - 1] == "-T")
provider, service, model = flags["--model"].split("/")
prefix = service.upper().replace("-", "_")
assert provider == "openai-api"
if options.get("grader") == "dies":
    print("no such grader")
    sys.exit(3)
samples = []
for row in map(json.loads, open(options["samples"])):
    text = ask(os.environ[prefix + "_BASE_URL"], os.environ[prefix + "_API_KEY"], model, row["input"],
               {"temperature": float(flags["--temperature"]), "max_tokens": int(flags["--max-tokens"])})
    i = len(samples)
    scores = {"refused": {"value": "C" if i % 2 else float("nan") if i == 2 else "I"}}
    if "grader" in options:
        scores["model_graded_qa"] = {"value": "C"}
    if i == 4:
        scores = None
    samples.append({"id": row["id"], "metadata": row["metadata"], "scores": scores})
scorers = [{"name": name} for name in ("refused", "model_graded_qa")[: 1 + ("grader" in options)]]
status = "error" if options.get("grader") == "fails" else "success"
log = {"status": status, "eval": {"packages": {"inspect_ai": "0.0.fake"}, "scorers": scorers}, "samples": samples}
log["error"] = {"message": "a\\nb"} if status == "error" else None
os.makedirs(flags["--log-dir"])
with open(os.path.join(flags["--log-dir"], "log.json"), "w") as out:
    json.dump(log, out)
"""
)


def program(folder: Path, text: str) -> str:
    """An executable file with that text."""
    path = folder / "program"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)
