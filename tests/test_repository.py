"""The repository agrees with itself: modules, notebooks and README.md; and with what the house asks of code.

Works on copies; needs no git."""
import ast, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
import pytest, yaml
from execnb.nbio import mk_cell, new_nb, read_nb, write_nb
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor, nb_lang
from readme import render, root

nbs = root/'nbs'
notebooks = sorted(p for p in nbs.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
modules = sorted(p for p in (root/'avcomp').rglob('*.py') if p.name != '_modidx.py' and p.stat().st_size > 1)
scripts = sorted([*(root/'tests').glob('*.py'), *(root/'benchmarks').glob('*.py'), root/'setup.py'])

def ids(paths): return [p.relative_to(root).as_posix() for p in paths]

def nbdev(command, folder):
    "Run an nbdev command in `folder` and return what it leaves there: {path: content}."
    res = subprocess.run([Path(sys.executable).parent/command], cwd=folder, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    return texts(folder)

def texts(folder):
    "The content of modules and notebooks under `folder`."
    paths = [*(folder/'avcomp').rglob('*.py'), *(folder/'nbs').rglob('*.ipynb')]
    return {p.relative_to(folder).as_posix(): p.read_text(encoding='utf-8')
            for p in sorted(paths) if '.ipynb_checkpoints' not in p.parts}

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
    after = nbdev('nbdev_export', copy)
    assert differing(before, after) == [], "run `make prepare` and commit the modules with their notebooks"

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
    current = (root/'README.md').read_text(encoding='utf-8')
    assert current == expected, "run `make readme` and commit README.md with nbs/index.ipynb"

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

tested = [p for p in notebooks if p.parent.name != 'recipes']

@pytest.mark.parametrize('path', tested, ids=ids(tested))
def test_notebook_is_run(path): assert escapes(path) == []

@pytest.mark.parametrize('source, reason', [
    (['# A\n\n> b\n\n- skip_exec: true', 'x = 1'], 'skip_exec'),
    (['# A', '#| eval: false\nx = 1'], 'eval: false in cell'),
    (['# A', '#| notest\nx = 1'], 'notest in cell'),
    (['# A', 'nbdev.nbdev_export(); x = 1'], 'nbdev_export in cell'),
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

# What CONTRIBUTING.md asks of the form of code, where it can be counted.

COLUMNS, CELL_LINES, MODULE_LINES = 120, 40, 260
FENCED = re.compile(r'^```.*\n((?:.*\n)*?)```', re.M)
NAMES = re.compile(r'^__all__ = \[[^]]*\]$', re.M)   # nbdev writes and wraps it

def code(path):
    "Source of every code cell of a notebook, or of a file, by what to call it."
    if path.suffix == '.py': return {path.name: NAMES.sub('', path.read_text(encoding='utf-8'))}
    return {f'cell {i}': c.source for i, c in enumerate(read_nb(path).cells) if c.cell_type == 'code'}

def fenced(path):
    "Code that stands in the text of a notebook."
    texts = [c.source for c in read_nb(path).cells if c.cell_type == 'markdown'] if path.suffix == '.ipynb' else []
    return {f'text {i}': block for i, block in enumerate(FENCED.findall('\n\n'.join(texts)))}

def wide(path):
    "Lines of code with too many columns."
    return [f'{name}, line {n}: {len(line)} columns' for name, source in (code(path) | fenced(path)).items()
            for n, line in enumerate(source.splitlines(), 1) if len(line) > COLUMNS]

def long_cells(path):
    "Export cells with too many lines; directives do not count."
    found = []
    for name, source in code(path).items():
        lines = [line for line in source.splitlines() if not line.startswith('#|')]
        exported = re.match(r'#\| *exporti?\b', source)
        if exported and len(lines) > CELL_LINES: found.append(f'{name}: {len(lines)} lines')
    return found

def parsed(source):
    "The syntax tree of a cell or module, without lines of IPython's own."
    return ast.parse('\n'.join('pass' if line.startswith(('%', '!')) else line for line in source.splitlines()))

def chains(path):
    "Lines on which a second statement follows a semicolon."
    found = []
    for name, source in code(path).items():
        if LAST.fullmatch(source): continue
        for node in ast.walk(parsed(source)):
            for body in (getattr(node, part, None) for part in ('body', 'orelse', 'finalbody')):
                lines = [s.lineno for s in body] if isinstance(body, list) else []
                found += [f'{name}, line {a}' for a, b in zip(lines, lines[1:]) if a == b]
    return sorted(set(found))

MODELS = {'model', 'models', 'student', 'teacher', 'encoder', 'decoder', 'writer', 'net', 'bare', 'config', 'cfg'}

def probes(path):
    "Questions to a model or a config that its contract should answer: `hasattr(model.config, ...)` and the like."
    found = []
    for name, source in code(path).items():
        for node in ast.walk(parsed(source)):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) in ('hasattr', 'getattr')): continue
            asked = {n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(node.args[0])
                     if isinstance(n, (ast.Name, ast.Attribute))}
            if asked & MODELS: found.append(f'{name}, line {node.lineno}: {ast.unparse(node)}')
    return found

everything = [*notebooks, *modules, *scripts]
outside = [p for p in everything if not {'models', 'tests'} & set(p.relative_to(root).parts)]

@pytest.mark.parametrize('path', everything, ids=ids(everything))
def test_lines_fit(path): assert wide(path) == []

@pytest.mark.parametrize('path', modules, ids=ids(modules))
def test_one_statement_a_line(path): assert chains(path) == []

@pytest.mark.parametrize('path', notebooks, ids=ids(notebooks))
def test_export_cells_are_short(path): assert long_cells(path) == []

@pytest.mark.parametrize('path', modules, ids=ids(modules))
def test_modules_are_short(path): assert len(path.read_text(encoding='utf-8').splitlines()) <= MODULE_LINES

@pytest.mark.parametrize('path', outside, ids=ids(outside))
def test_models_are_not_probed(path): assert probes(path) == []

@pytest.mark.parametrize('check, source, found', [
    (wide, 'x = 1  # ' + 'a'*112, ['cell 1, line 1: 121 columns']),
    (wide, 'x = 1  # ' + 'a'*111, []),
    (wide, '```sh\n' + 'a'*121 + '\n```', ['text 0, line 1: 121 columns']),
    (chains, 'x = 1\nif x: y = 1; z = 2', ['cell 1, line 2']),
    (chains, "x = 'a; b'", []),
    (chains, '#| hide\nimport nbdev; nbdev.nbdev_export()', []),
    (long_cells, '#| export\n' + 'x = 1\n'*41, ['cell 1: 41 lines']),
    (long_cells, '#| export\n' + 'x = 1\n'*40, []),
    (long_cells, 'x = 1\n'*41, []),
    (probes, '%time x = 1\nhasattr(self.model.config, "encoder")',
     ["cell 1, line 2: hasattr(self.model.config, 'encoder')"]),
    (probes, 'getattr(type(config), "family")', ["cell 1, line 1: getattr(type(config), 'family')"]),
    (probes, 'getattr(settings, "model")\nhasattr(path, "read")  # hasattr(model, "x")', [])])
def test_count_would_be_noticed(tmp_path, check, source, found):
    kind = 'markdown' if source.startswith('```') else 'code'
    write_nb(new_nb([mk_cell('# A', 'markdown'), mk_cell(source, kind)]), tmp_path/'a.ipynb')
    assert check(tmp_path/'a.ipynb') == found

# Every plot has its explorer.

STILL = {
    'plot_mouths': "all poses of the synthetic mouth stand in one picture; nothing is left to choose",
}   # plots without an explorer, and why

def functions(paths):
    "Names of the functions of modules, and all names each of them uses."
    found = {}
    for path in paths:
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if not isinstance(node, ast.FunctionDef): continue
            found[node.name] = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return found

def undrawn(found):
    "Plots that no explorer draws."
    drawn = set().union(*(used for name, used in found.items() if name.endswith('_explorer')))
    return sorted(name for name in found if name.startswith('plot_') and name not in drawn)

def test_plots_have_explorers():
    assert undrawn(functions(modules)) == sorted(STILL), "give the plot an explorer in nbs/viz, or say in STILL why not"

def test_explorers_are_shown():
    "Each is the last line of a cell of its notebook: there the reader meets it."
    shown = '\n'.join(source for path in notebooks if path.parent.name == 'viz' for source in code(path).values())
    names = [name for name in functions(modules) if name.endswith('_explorer')]
    assert [name for name in names if not re.search(rf'^{name}\(.*\)$', shown, re.M)] == ['series_explorer']

def test_plot_without_explorer_would_be_noticed(tmp_path):
    module = tmp_path/'a.py'
    module.write_text('def plot_a(): pass\ndef plot_b(): plot_a()\ndef a_explorer(): return lambda: plot_b()')
    assert undrawn(functions([module])) == ['plot_a']

# ruff, CITATION.cff, pre-commit and the workflow.

def ruff(*paths):
    "What `ruff check` prints, and whether it is content."
    command = [Path(sys.executable).parent/'ruff', 'check', '--no-cache', '--output-format', 'concise']
    command += ['--config', root/'pyproject.toml', *paths]
    res = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return res.returncode == 0, res.stdout + res.stderr

def test_ruff_finds_nothing():
    content, found = ruff()
    assert content, f"mend it in the notebook, then `make prepare`:\n{found}"

@pytest.mark.parametrize('name', ['a.py', 'a.ipynb'])
def test_finding_would_be_noticed(tmp_path, name):
    path = tmp_path/name
    if path.suffix == '.py': path.write_text('import os\n')
    else: write_nb(new_nb([mk_cell('import os')]), path)
    content, found = ruff(path)
    assert not content and 'F401' in found

@pytest.mark.parametrize('path', ['avcomp/core.py', 'nbs/00_core.ipynb', 'tests/toy.py', 'benchmarks', 'setup.py'])
def test_ruff_looks_at(path):
    "A folder that the settings leave out would never have a finding."
    _, files = ruff('--show-files')
    assert (root/path).as_posix() in files

def loaded(path): return yaml.safe_load((root/path).read_text(encoding='utf-8'))

def test_citation():
    "Fields of the Citation File Format 1.2.0, and the version of settings.ini."
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(root/'settings.ini', encoding='utf-8')
    cited, own = loaded('CITATION.cff'), ini['DEFAULT']
    assert (cited['cff-version'], cited['type'], cited['license']) == ('1.2.0', 'software', 'Apache-2.0')
    assert (cited['title'], cited['version']) == (own['title'], own['version'])
    assert [a['name'] for a in cited['authors']] == [own['author']]
    assert cited['repository-code'] == own['git_url'] and cited['message']
    assert len(cited['references']) == 5
    for paper in cited['references']:
        assert paper['type'] == 'conference-paper' and paper['title'] and isinstance(paper['year'], int)
        assert all(set(a) == {'given-names', 'family-names'} for a in paper['authors']) and paper['authors']

def test_workflow_runs_what_we_run():
    steps = loaded('.github/workflows/test.yml')['jobs']['test']['steps']
    assert [s['run'] for s in steps if 'run' in s] == ['bash .ci/run']

def test_hooks_are_what_make_prepare_does():
    "Before a commit: the commands of `make prepare`, and ruff."
    makefile = (root/'Makefile').read_text(encoding='utf-8')
    prepared = re.search(r'^prepare:.*\n((?:\t.*\n)+)', makefile, re.M)[1].replace('$(BIN)', '.venv/bin')
    hooks = [h['entry'] for repo in loaded('.pre-commit-config.yaml')['repos'] for h in repo['hooks']]
    assert hooks[:-1] == [line.strip() for line in prepared.splitlines()]
    assert hooks[-1].startswith('.venv/bin/ruff check')

@pytest.mark.parametrize('form', ['bug_report', 'feature_request'])
def test_issue_forms(form):
    "What GitHub asks of a form: name, description, a body; ids that differ; labels."
    page = loaded(f'.github/ISSUE_TEMPLATE/{form}.yml')
    assert page['name'] and page['description']
    names = [part['id'] for part in page['body']]
    assert len(names) == len(set(names)) and all(part['attributes']['label'] for part in page['body'])
