"""The code that the generator makes: handlers that exist are called with their
arguments and answer, those that do not exist look as if there were no such
command."""

import os
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))

SCHEMA = """
##
# @Colour:
#
# Words.
#
# @dark-red: words
#
# @x.y: words
##
{ 'enum': 'Colour', 'data': [ 'dark-red', 'x.y' ] }

##
# @Base:
#
# Words.
#
# @default: words
#
# @errno: words
##
{ 'struct': 'Base', 'data': { '*default': 'Colour', '*errno': 'int8' } }

##
# @Thing:
#
# Words.
#
# @unix: words
#
# @names: words
##
{ 'struct': 'Thing', 'base': 'Base',
  'data': { 'unix': 'str', '*names': [ 'Colour' ] } }

##
# @get-str:
#
# Words.
#
# @thing: words
##
{ 'command': 'get-str', 'data': { 'thing': 'Thing' }, 'returns': 'str' }

##
# @get-int:
#
# Words.
##
{ 'command': 'get-int', 'returns': 'int', 'allow-oob': true }

##
# @get-thing:
#
# Words.
##
{ 'command': 'get-thing', 'data': 'Thing', 'returns': 'Thing',
  'allow-preconfig': true }

##
# @get-things:
#
# Words.
##
{ 'command': 'get-things', 'returns': [ 'Thing' ] }

##
# @get-any:
#
# Words.
#
# @x: words
##
{ 'command': 'get-any', 'data': { 'x': 'any' }, 'returns': 'any' }

##
# @raw:
#
# Words.
#
# @x: words
##
{ 'command': 'raw', 'data': { '*x': 'int' }, 'gen': false, 'returns': 'any' }

##
# @do-it:
#
# Words.
#
# @well: words
#
# Features:
# @unstable: words
##
{ 'command': 'do-it', 'data': { '*well': 'bool' },
  'features': [ 'unstable' ] }

##
# @nobody-does:
#
# Words.
##
{ 'command': 'nobody-does', 'returns': 'Colour' }

##
# @HAPPENED:
#
# Words.
#
# @what: words
##
{ 'event': 'HAPPENED', 'data': { 'what': 'Colour' } }
"""

MAIN = r"""
#include "qmp/commands.h"

#include <json-c/json.h>
#include <stdio.h>

#include "qapi/introspect.h"
#include "qmp/dispatch.h"
#include "util/error.h"

char *qmp_get_str(const struct get_str_args *args, GError **errp)
{
    return g_strdup_printf("%s %d %zu", args->thing->unix_,
                           args->thing->has_errno_ ? args->thing->errno_ : 0,
                           args->thing->names.n);
}

bool qmp_get_int(int64_t *ret, GError **errp)
{
    *ret = 42;
    return true;
}

struct thing *qmp_get_thing(const struct thing *args, GError **errp)
{
    return thing_clone(args);
}

struct thing_list *qmp_get_things(GError **errp)
{
    struct thing_list *list = g_new0(struct thing_list, 1);
    for (int i = 0; i < 2; i++) {
        struct thing *thing = g_new0(struct thing, 1);
        thing->unix_ = g_strdup_printf("%d", i);
        qapi_list_append(list, thing);
    }
    return list;
}

struct json_object *qmp_get_any(const struct get_any_args *args, GError **errp)
{
    return json_object_get(args->x);
}

struct json_object *qmp_raw(struct json_object *args, GError **errp)
{
    return json_object_get(args);
}

bool qmp_do_it(const struct do_it_args *args, GError **errp)
{
    if (args->has_well && args->well) {
        return true;
    }
    return error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "not well");
}

/* Each line of input: a command, a blank, its arguments. */
int main(void)
{
    char line[1000];
    while (fgets(line, sizeof(line), stdin)) {
        char *text = strchr(line, ' ');
        *text++ = '\0';
        const struct qmp_command *command = qmp_command_find(line);
        if (!command) {
            puts("no such command");
            continue;
        }
        struct json_object *in = json_tokener_parse(text), *out = NULL;
        GError *error = NULL;
        bool ok = command->invoke(in, &out, &error);
        g_assert(ok == !error);
        printf("%d %s %s\n", command->flags,
               qmp_command_has_feature(command, "unstable") ? "unstable" : "-",
               ok ? json_object_to_json_string_ext(out, 0) : error->message);
        json_object_put(in);
        json_object_put(out);
        g_clear_error(&error);
    }
    struct json_object *schema = qapi_introspect(qmp_command_available, NULL);
    for (size_t i = 0; i < json_object_array_length(schema); i++) {
        struct json_object *entry = json_object_array_get_idx(schema, i);
        puts(json_object_get_string(json_object_object_get(entry, "name")));
    }
    json_object_put(schema);
    return 0;
}
"""


def run(*argv, **kwargs):
    result = subprocess.run(argv, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, timeout=120,
                            cwd=ROOT, check=False, **kwargs)
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    """A program with handlers for the schema above, under sanitizers."""
    folder = tmp_path_factory.mktemp('qapi')
    (folder / 'schema.json').write_text(SCHEMA)
    (folder / 'main.c').write_text(MAIN)
    run('/usr/bin/python3', 'qapi/gen/main.py', '--output', str(folder),
        str(folder / 'schema.json'))
    packages = ('glib-2.0', 'json-c')
    flags = run('pkg-config', '--cflags', *packages).split()
    libraries = run('pkg-config', '--libs', *packages).split()
    sources = [str(folder / name) for name in (
        'main.c', 'qapi/types.c', 'qapi/introspect.c', 'qmp/commands.c')]
    sources += ['qapi/%s.c' % n for n in (
        'value', 'decode', 'decode_scalar', 'encode', 'introspect')]
    sources += ['qmp/command_table.c', 'util/error.c', 'util/keyval.c']
    run('gcc', '-std=gnu11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror',
        '-Wno-unused-parameter', '-g', '-fsanitize=address,undefined',
        '-fno-sanitize-recover=all', '-I%s' % folder, '-Iinclude', '-I.',
        *flags, '-o', str(folder / 'program'), *sources, *libraries)
    return str(folder / 'program')


def call(program, *lines):
    out = run(program, input=''.join(line + '\n' for line in lines))
    return out.splitlines()[:len(lines)]


@pytest.mark.parametrize('line, answer', [
    ('get-str {"thing":{"unix":"u","errno":-3,"names":["x.y","dark-red"]}}',
     '0 - "u -3 2"'),
    ('get-str {"thing":{"unix":"u","errno":200}}',
     "0 - Parameter 'thing.errno' expects int8_t"),
    ('get-int null', '1 - 42'),
    ('get-int {"x":1}', "1 - Parameter 'x' is unexpected"),
    ('get-thing {"unix":"u","default":"dark-red"}',
     '2 - {"default":"dark-red","unix":"u"}'),
    ('get-thing null', "2 - Parameter 'unix' is missing"),
    ('get-things {}', '0 - [{"unix":"0"},{"unix":"1"}]'),
    ('get-any {"x":[1,{"a":2}]}', '0 - [1,{"a":2}]'),
    ('raw {"whatever":[]}', '0 - {"whatever":[]}'),
    ('do-it {"well":true}', '0 unstable null'),
    ('do-it {}', '0 unstable not well'),
    ('nobody-does {}', 'no such command'),
    ('nonsense {}', 'no such command'),
])
def test_command(program, line, answer):
    assert call(program, line) == [answer]


def test_command_without_handler_is_not_promised(program):
    names = run(program, input='').splitlines()
    assert 'get-things' in names and 'HAPPENED' in names
    assert 'nobody-does' not in names
