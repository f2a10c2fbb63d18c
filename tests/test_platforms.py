"""Every requirement of settings.ini, and all that those require, has a wheel for each platform that README.md names.

pip evaluates markers for the machine it runs on, and even in a dry run it fetches every wheel, a gigabyte in all. So
what is required elsewhere is found in the metadata of the installed packages (those without compiled parts fit
everywhere), and wheels of the pinned versions in the lists of pip's index. Without an index the tests are skipped."""
import re, sys
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import compatible_tags, cpython_tags, mac_platforms
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parent.parent
def linux(arch):
    return [f'manylinux_2_{n}_{arch}' for n in range(28, 4, -1)] + [f'manylinux{n}_{arch}' for n in (2014, 2010, 1)]

PLATFORMS = {   # as README.md calls them: what markers see there, and tags of wheels
    'Linux on x86-64': (('linux', 'Linux', 'x86_64', 'posix'), linux('x86_64')),
    'Linux on arm64': (('linux', 'Linux', 'aarch64', 'posix'), linux('aarch64')),
    'Windows on x86-64': (('win32', 'Windows', 'AMD64', 'nt'), ['win_amd64']),
    'macOS 14 on Apple silicon': (('darwin', 'Darwin', 'arm64', 'posix'), [*mac_platforms((14, 0), 'arm64')]),
}
MARKERS = 'sys_platform', 'platform_system', 'platform_machine', 'os_name'

@cache
def required():
    "What settings.ini asks for to use the library, cropping included, beyond what only tests and notebooks need."
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return [Requirement(r) for kind in ('', 'crop_') for r in ini['DEFAULT'][f'{kind}requirements'].split()]

@cache
def pinned():
    "The version of every package in constraints.txt, as a specifier."
    lines = (ROOT/'constraints.txt').read_text(encoding='utf-8').splitlines()
    lines = [line for line in lines if line[:1] not in ('', '#')]
    here = [r for r in map(Requirement, lines) if not r.marker or r.marker.evaluate()]
    return {canonicalize_name(r.name): r.specifier for r in here}

def is_compiled(dist): return 'Root-Is-Purelib: true' not in (dist.read_text('WHEEL') or '')

def wheels_needed(seen):
    "Packages of which a platform with such markers needs a wheel of its own."
    found, todo = {}, [(r.name, r.extras) for r in required()]
    while todo:
        name, extras = todo.pop()
        if (key := canonicalize_name(name)) in found: continue
        try: dist = distribution(name)
        except PackageNotFoundError: dist = None   # another platform's own, or not installed yet
        found[key] = dist is None or is_compiled(dist)
        for r in map(Requirement, (dist and dist.requires) or ()):
            if r.marker is None or any(r.marker.evaluate(seen | {'extra': e}) for e in ('', *extras)):
                todo.append((r.name, r.extras))
    return sorted(name for name, compiled in found.items() if compiled)

@pytest.fixture(scope='module')
def wheels():
    "Function: name of a package -> tags of the wheels of its pinned version; skips where no index answers."
    from pip._internal.commands.download import DownloadCommand
    command = DownloadCommand('download', '')
    options, _ = command.parse_args(['--retries', '0', '--timeout', '20'])
    with command.main_context():
        session = command.get_default_session(options)
        def fits(file, name):
            try: _, version, _, _ = parse_wheel_filename(file)
            except InvalidWheelFilename: return False
            return pinned().get(name, SpecifierSet()).contains(version)
        @cache
        def wheels(name):
            page = session.get(f'{options.index_url.rstrip("/")}/{name}/').text
            files = {f for f in re.findall(r'>\s*([^<>/]+\.whl)\s*<', page) if fits(f, name)}
            return {tag for f in files for tag in parse_wheel_filename(f)[3]}
        try: answered = wheels('packaging')
        except Exception: answered = ()   # of pip's own kinds
        if not answered: pytest.skip('no package index can be reached')
        yield wheels

def lacking(wheels, tags, names):
    "Packages without a wheel for a platform."
    python = sys.version_info[:2]
    fitting = {*cpython_tags(python, platforms=tags), *compatible_tags(python, 'cp{}{}'.format(*python), tags)}
    with ThreadPoolExecutor(8) as pool: found = dict(zip(names, pool.map(wheels, names)))
    return [name for name in names if not found[name] & fitting]

@pytest.mark.parametrize('platform', PLATFORMS)
def test_every_requirement_has_a_wheel(wheels, platform):
    seen, tags = PLATFORMS[platform]
    names = wheels_needed(dict(zip(MARKERS, seen)))
    assert {'torch', 'decord2', 'av', 'dlib-bin'} <= set(names)
    assert lacking(wheels, tags, names) == []

def test_a_missing_wheel_would_be_noticed(wheels):
    "Nobody builds torch for Intel Macs any more, and nobody ever built decord for arm64."
    assert lacking(wheels, [*mac_platforms((14, 0), 'x86_64')], ['torch', 'av']) == ['torch']
    assert lacking(wheels, PLATFORMS['Linux on arm64'][1], ['decord', 'av']) == ['decord']

@pytest.mark.parametrize('platform', PLATFORMS)
def test_readme_names(platform): assert platform in (ROOT/'README.md').read_text(encoding='utf-8')
