"The repository agrees with itself: modules, notebooks and README.md. Works on copies; needs no git."
import re, shutil, subprocess, sys
from pathlib import Path
import pytest
from execnb.nbio import mk_cell, new_nb, write_nb
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor, nb_lang
from readme import render, root

nbs = root/'nbs'
notebooks = sorted(p for p in nbs.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
modules = sorted(p for p in (root/'avcomp').rglob('*.py') if p.name != '_modidx.py' and p.read_text(encoding='utf-8').strip())

def ids(paths): return [p.relative_to(root).as_posix() for p in paths]

def nbdev(command, folder):
    "Run an nbdev command in `folder` and return what it leaves there: {path: content}."
    res = subprocess.run([Path(sys.executable).parent/command], cwd=folder, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    return texts(folder)

def texts(folder):
    "The content of modules and notebooks under `folder`."
    return {p.relative_to(folder).as_posix(): p.read_text(encoding='utf-8') for sub, kind in (('avcomp', '*.py'), ('nbs', '*.ipynb'))
            for p in sorted((folder/sub).rglob(kind)) if '.ipynb_checkpoints' not in p.parts}

def differing(a, b): return sorted(k for k in a.keys()|b.keys() if a.get(k) != b.get(k))

@pytest.fixture
def copy(tmp_path):
    "A copy of the parts that nbdev reads and writes."
    skip = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'assets')
    for name in ('avcomp', 'nbs'): shutil.copytree(root/name, tmp_path/name, ignore=skip)
    for name in ('settings.ini', 'pyproject.toml', 'setup.py'): shutil.copy(root/name, tmp_path/name)
    return tmp_path

def test_export_changes_nothing(copy):
    "The notebooks make the committed modules, all of them and no other."
    before = texts(copy)
    for p in (copy/'avcomp').rglob('*.py'): p.unlink()
    assert differing(before, nbdev('nbdev_export', copy)) == [], "run `make prepare` and commit the modules with their notebooks"

def test_clean_changes_nothing(copy):
    before = texts(copy)
    assert differing(before, nbdev('nbdev_clean', copy)) == [], "run `make prepare` and commit the cleaned notebooks"

def test_clean_would_be_noticed(copy):
    name = ids(notebooks)[0]
    clean = nbdev('nbdev_clean', copy)[name]
    (copy/name).write_text(clean.replace('"execution_count": null', '"execution_count": 3', 1), encoding='utf-8')
    assert texts(copy)[name] != clean == nbdev('nbdev_clean', copy)[name]

def test_readme_is_fresh():
    expected = render(nbs/'index.ipynb')
    assert (root/'README.md').read_text(encoding='utf-8') == expected, "run `make readme` and commit README.md with nbs/index.ipynb"

@pytest.mark.parametrize('page', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\((?!\w+:|#)([^)#]+)', (root/page).read_text(encoding='utf-8'))
    assert [o for o in links if not (root/o).exists()] == []

LAST = re.compile(r'(#\|.*\n)*import nbdev; nbdev\.nbdev_export\(\)\s*')   # the only cell that a test run may leave out

def escapes(path):
    "The ways in which `nbdev_test` would leave out the notebook at `path` or one of its cells."
    found = [f'name {o!r}' for o in path.relative_to(nbs).parts if o[0] in '_.']
    if (path.parent/'.notest').exists(): found.append(f'.notest in {path.parent.name}')
    nb = NBProcessor(path, procs=FrontmatterProc, process=True).nb
    if nb.frontmatter_.get('skip_exec'): found.append('skip_exec')
    if nb_lang(nb) != 'python': found.append(f'language {nb_lang(nb)}')
    for cell in nb.cells:
        if cell.cell_type != 'code' or LAST.fullmatch(cell.source): continue
        if 'nbdev_export'+'(' in cell.source: found.append(f'nbdev_export in cell {cell.id}')
        if cell.directives_.get('eval:', [''])[0].lower() == 'false': found.append(f'eval: false in cell {cell.id}')
        if 'notest' in cell.directives_: found.append(f'notest in cell {cell.id}')
    return found

@pytest.mark.parametrize('path', [p for p in notebooks if p.parent.name != 'recipes'], ids=lambda p: p.relative_to(nbs).as_posix())
def test_notebook_is_run(path): assert escapes(path) == []

@pytest.mark.parametrize('source, reason', [
    (['# A\n\n> b\n\n- skip_exec: true', 'x = 1'], 'skip_exec'), (['# A', '#| eval: false\nx = 1'], 'eval: false in cell'),
    (['# A', '#| notest\nx = 1'], 'notest in cell'), (['# A', 'nbdev.nbdev_export(); x = 1'], 'nbdev_export in cell'),
    (['# A', '#| hide\n#| eval: false\nimport nbdev; nbdev.nbdev_export()'], None)])
def test_escape_would_be_noticed(tmp_path, monkeypatch, source, reason):
    monkeypatch.setitem(globals(), 'nbs', tmp_path)
    write_nb(new_nb([mk_cell(source[0], 'markdown'), *map(mk_cell, source[1:])]), tmp_path/'a.ipynb')
    found = escapes(tmp_path/'a.ipynb')
    assert [o for o in found if o.startswith(reason)] if reason else found == []

@pytest.mark.parametrize('path', modules, ids=ids(modules))
def test_module_has_a_tested_notebook(path):
    source = re.search(r'File to edit: (\S+\.ipynb)\.', path.read_text(encoding='utf-8'))
    assert source, f"{path} was not exported from a notebook"
    notebook = (path.parent/source[1]).resolve()
    assert notebook in notebooks and notebook.parent.name != 'recipes'
