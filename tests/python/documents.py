"""Runs the Python that a page shows. Before every ```python fence stands its mark: `<!-- test: numpy -->`,
`<!-- test: torch -->`, or `<!-- not run: REASON -->`. Fences with one mark run in order, in one namespace."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ["python/README.md", "docs/python.md"]


def run_page(page, mark, folder):
    text = (ROOT / page).read_text()
    fences = re.findall(r"(?:^<!-- (?:test: (\w+)|not run: [^>]+) -->\n)?^```python\n(.*?)^```$", text, re.M | re.S)
    marked = re.findall(r"^<!-- (?:test: (?:numpy|torch)|not run: [^>]+) -->\n```python$", text, re.M)
    assert len(marked) == len(fences), f"{page}: a fence has no mark"
    (folder / "book.txt").write_text((ROOT / "LICENSE").read_text() + (ROOT / "README.md").read_text())
    namespace = {"__name__": "__main__"}
    ran = 0
    for found, code in fences:
        if found == mark:
            exec(compile(code, f"{page} ({mark} {ran})", "exec"), namespace)
            ran += 1
    return ran
