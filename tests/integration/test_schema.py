"""The schema: equal to QEMU's where we offer anything, documented, refused with
the place when it is wrong, and its reference page current."""

import os
import re
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
PYTHON = '/usr/bin/python3'
GENERATOR = os.path.join(ROOT, 'qapi/gen/main.py')
VARVED = os.path.join(ROOT, os.environ.get('VARVE_BUILD', 'build/gcc'),
                      'varved')
COMPARE = os.path.join(ROOT, 'tests/qapi/compare-schema')


def run(*argv, **kwargs):
    return subprocess.run(argv, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120,
                          cwd=ROOT, check=False, **kwargs)


def generate(tmp_path, text):
    """Runs the generator on a schema; returns its exit status and output."""
    schema = tmp_path / 'schema.json'
    schema.write_text(text)
    result = run(PYTHON, GENERATOR, '--output', str(tmp_path / 'out'),
                 str(schema))
    return result.returncode, result.stdout


def doc(name, *members):
    lines = ['##', '# @%s:' % name, '#', '# Words.']
    for member in members:
        lines += ['#', '# @%s: words' % member]
    return '\n'.join(lines + ['##', ''])


def test_what_we_offer_equals_qemu():
    result = run(COMPARE, '--check')
    assert result.returncode == 0, result.stdout


def test_comparison_notices_a_difference(tmp_path):
    """The test above can fail: an optional member becomes a required one."""
    copy = tmp_path / 'tree'
    (copy / 'build').mkdir(parents=True)
    run('cp', '-r', 'qapi', 'tests', str(copy))
    schema = copy / 'qapi/block-core.json'
    text = schema.read_text()
    changed = text.replace("'*node-name': 'str',\n            'size'",
                           "'node-name': 'str',\n            'size'")
    changed = changed.replace("[ 'ignore', 'unmap' ]", "[ 'ignore', 'unmapp' ]")
    changed = changed.replace('# @unmap: it goes', '# @unmapp: it goes')
    assert changed != text
    schema.write_text(changed)
    result = run(PYTHON, str(copy / 'qapi/gen/main.py'), '--output',
                 str(copy / 'build/gen'), str(copy / 'qapi/schema.json'))
    assert result.returncode == 0, result.stdout
    result = run(str(copy / 'tests/qapi/compare-schema'), '--check')
    assert result.returncode == 1
    assert ("block_resize-args member 'node-name': required"
            in result.stdout), result.stdout
    assert "BlockdevDiscardOptions: value 'unmapp' only here" in result.stdout
    assert "BlockdevDiscardOptions: value 'unmap' missing" in result.stdout


if os.path.exists(VARVED):
    def test_running_daemon_offers_the_same():
        result = run(COMPARE, '--check', '--varved', VARVED)
        assert result.returncode == 0, result.stdout


def test_reference_page_is_current(tmp_path):
    page = tmp_path / 'page.md'
    result = run(PYTHON, GENERATOR, '--reference', str(page),
                 'qapi/schema.json')
    assert result.returncode == 0, result.stdout
    with open(os.path.join(ROOT, 'docs/qmp-reference.md'),
              encoding='utf-8') as committed:
        assert committed.read() == page.read_text(), 'run make docs'


def test_every_link_of_the_reference_page_leads_somewhere():
    with open(os.path.join(ROOT, 'docs/qmp-reference.md'),
              encoding='utf-8') as file:
        text = file.read()
    anchors = set()
    for title in re.findall(r'^#+ (.*)$', text, re.MULTILINE):
        words = re.sub(r'[^a-z0-9_ -]', '', title.lower())
        anchors.add(words.replace(' ', '-'))
    links = set(re.findall(r'\]\(#([^)]*)\)', text))
    assert links and links <= anchors, links - anchors


@pytest.mark.parametrize('schema, complaint', [
    ("{ 'enum': 'A', 'data': [ 'x' ] }",
     "1: 'A' lacks a doc block of its own"),
    (doc('A') + "{ 'enum': 'A', 'data': [ 'x' ] }",
     "member 'x' lacks a doc text"),
    ("##\n# @A:\n#\n# @x: words\n##\n{ 'enum': 'A', 'data': [ 'x' ] }",
     "'A' is not described"),
    (doc('A', 'x', 'y') + "{ 'enum': 'A', 'data': [ 'x' ] }",
     "'y' is documented but does not exist"),
    (doc('c', 'x') + "{ 'command': 'c', 'data': { '*y': 'int' } }",
     "member 'y' lacks a doc text"),
    (doc('c') + "{ 'command': 'c', 'features': [ 'unstable' ] }",
     "feature 'unstable' lacks a doc text"),
    (doc('S', 'x') + "{ 'struct': 'S', 'data': { 'x': 'Nope' } }",
     "unknown type 'Nope'"),
    (doc('S', 'x-y', 'x.y') +
     "{ 'struct': 'S', 'data': { 'x-y': 'int', 'x.y': 'int' } }",
     "'S': members clash in C"),
    (doc('S', 'x', 'has-x') +
     "{ 'struct': 'S', 'data': { '*x': 'int', 'has-x': 'bool' } }",
     "'S': members clash in C"),
    (doc('A', 's', 'e') + "{ 'alternate': 'A', "
     "'data': { 's': 'str', 'e': 'E' } }\n" + doc('E', 'x') +
     "{ 'enum': 'E', 'data': [ 'x' ] }",
     "'e' cannot be told from the other members"),
    (doc('E', 'x') + "{ 'enum': 'E', 'data': [ 'x' ] }\n" + doc('S') +
     "{ 'struct': 'S', 'data': { } }\n" + doc('U', 't') +
     "{ 'union': 'U', 'base': { 't': 'E' }, 'discriminator': 't', "
     "'data': { 'z': 'S' } }",
     "branch 'z' is not a value of 'E'"),
    (doc('E', 'x') + "{ 'enum': 'E', 'data': [ 'x' ] }\n" + doc('S', 't') +
     "{ 'struct': 'S', 'data': { 't': 'int' } }\n" + doc('U', 't') +
     "{ 'union': 'U', 'base': { 't': 'E' }, 'discriminator': 't', "
     "'data': { 'x': 'S' } }",
     "branch 'x' repeats t"),
    (doc('A', 'x') + "{ 'enum': 'A', 'data': [ 'x' ], 'colour': 'red' }",
     "'A': unknown key colour"),
    ("{ 'include': 'nowhere.json' }", "no file"),
    ("\n{ 'enum': \"A\" }", "schema.json:2: stray"),
    (doc('A', 'x') + "{ 'enum': 'A', 'data': [ 'x' ]",
     "expected ','"),
])
def test_generator_refuses_with_the_place(tmp_path, schema, complaint):
    status, output = generate(tmp_path, schema)
    assert status == 1, output
    assert output.startswith('main.py: '), output
    assert complaint in output
    assert not (tmp_path / 'out').exists()


def test_generator_output_does_not_depend_on_the_run(tmp_path):
    for seed in ('1', '2'):
        run(PYTHON, GENERATOR, '--output', str(tmp_path / seed),
            'qapi/schema.json', env=dict(os.environ, PYTHONHASHSEED=seed))
    result = run('diff', '-r', str(tmp_path / '1'), str(tmp_path / '2'))
    assert result.returncode == 0, result.stdout
