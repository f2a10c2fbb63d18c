"README.md from nbs/index.ipynb: `python tests/readme.py` writes it, the tests compare."
import re
from os.path import normpath
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).parent.parent

def render(
    notebook:Path,  # the front page, its outputs stored
)->str:             # Markdown, hidden cells left out
    "The text of README.md."
    hidden = Config(
        RegexRemovePreprocessor=dict(enabled=True, patterns=[r'#\| *hide', r'---\n']),
        TagRemovePreprocessor=dict(enabled=True, remove_input_tags=['echo-false']))
    nb = nbformat.read(notebook, as_version=4)
    for cell in nb.cells:
        if cell.source.startswith('#| echo: false'): cell.metadata['tags'] = ['echo-false']   # its output speaks alone
    nb.metadata.language_info = {'name': 'python'}   # cleaning strips it; the code fences are marked with it
    text, resources = MarkdownExporter(config=hidden).from_notebook_node(nb)
    if resources['outputs']:
        raise ValueError(f"{notebook} holds pictures; README.md can only show text, link to a notebook instead")
    def from_root(m): return f"]({normpath('nbs/'+m[1])})"      # links are relative to nbs/ in the notebook
    text = re.sub(r'\]\((?!\w+:|#)([^)]+)\)', from_root, text)
    lines = [o.rstrip() for o in text.splitlines()]
    kept = [o for i, o in enumerate(lines) if o or (i and lines[i-1])]
    return '\n'.join(kept).strip() + '\n'

if __name__ == '__main__': (root/'README.md').write_text(render(root/'nbs/index.ipynb'), encoding='utf-8')
