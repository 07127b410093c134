"""qmp/commands.h and qmp/commands.c: handler prototypes and the dispatch table.

A handler that nobody defined yet is a weak symbol without an address: the
program links, and the command is neither dispatched nor promised.
"""

from cnames import c_member, c_type
from gen_types import BANNER, c_decl


def handler(command):
    return 'qmp_' + c_member(command.name).rstrip('_')


def sorted_commands(schema):
    return sorted(schema.commands, key=lambda c: c.name)


def prototype(command):
    if not command.gen:
        return ('struct json_object *%s(struct json_object *args, '
                'GError **errp)' % handler(command))
    params = []
    if command.args:
        params.append('const struct %s *args' % c_type(command.args.name))
    returns = 'bool '
    if command.ret:
        if command.ret.is_pointer:
            returns = c_decl(command.ret)
        elif command.ret.meta == 'list':
            returns = 'struct %s *' % c_type(command.ret.name)
        else:
            params.append('%s*ret' % c_decl(command.ret))
    params.append('GError **errp')
    return '%s%s(%s)' % (returns, handler(command), ', '.join(params))


def header(schema):
    out = [BANNER, '''/*
 * The handlers that qmp/ defines. Each runs in a coroutine on the main loop and
 * may suspend. args belong to the caller, a returned value to the caller too.
 * On failure: *errp set, and false or NULL returned.
 */
#ifndef VARVE_GEN_QMP_COMMANDS_H
#define VARVE_GEN_QMP_COMMANDS_H

#include <glib.h>
#include "qapi/types.h"

struct json_object;

''']
    for command in sorted_commands(schema):
        out.append('%s;\n' % prototype(command))
    out.append('\n#endif\n')
    return ''.join(out)


def source(schema):
    out = [BANNER, '#include "qmp/commands.h"\n\n'
           '#include "qapi/codec.h"\n#include "qmp/dispatch.h"\n\n']
    for command in sorted_commands(schema):
        out.append('extern __typeof__(%s) %s __attribute__((weak));\n'
                   % (handler(command), handler(command)))
    out.append('\n')
    for command in sorted_commands(schema):
        out.append(trampoline(command))
    for command in sorted_commands(schema):
        if command.features:
            out.append('static const char *const %s_features[] = {%sNULL};\n'
                       % (handler(command),
                          ''.join('"%s", ' % f for f in command.features)))
    out.append('\nconst struct qmp_command qmp_commands[] = {\n')
    for command in sorted_commands(schema):
        out.append(row(command))
    out.append('};\nconst size_t qmp_commands_count = %d;\n'
               % len(schema.commands))
    return ''.join(out)


def trampoline(command):
    name = handler(command)
    out = ['static bool invoke_%s(struct json_object *in, '
           'struct json_object **out,\n        GError **errp)\n{\n' % name]
    if not command.gen:
        out.append('    GError *error = NULL;\n'
                   '    *out = %s(in, &error);\n'
                   '    if (error) {\n'
                   '        g_propagate_error(errp, error);\n'
                   '        return false;\n    }\n'
                   '    return true;\n}\n\n' % name)
        return ''.join(out)
    call = []
    if command.args:
        type_ = c_type(command.args.name)
        out.append('    qapi_auto(%s) args =\n'
                   '        qapi_decode_args(&qapi_type_%s, in, errp);\n'
                   '    if (!args) {\n        return false;\n    }\n'
                   % (type_, type_))
        call.append('args')
    else:
        out.append('    if (!qapi_decode_nothing(in, errp)) {\n'
                   '        return false;\n    }\n')
    out.append(call_and_encode(command, name, call))
    out.append('}\n\n')
    return ''.join(out)


def call_and_encode(command, name, call):
    ret = command.ret
    if not ret:
        return ('    *out = NULL;\n    return %s(%s);\n'
                % (name, ', '.join(call + ['errp'])))
    type_ = c_type(ret.name)
    if ret.meta == 'any':
        return ('    *out = %s(%s);\n    return *out != NULL;\n'
                % (name, ', '.join(call + ['errp'])))
    if ret.meta == 'str':
        return ('    g_autofree char *ret = %s(%s);\n'
                '    if (!ret) {\n        return false;\n    }\n'
                '    *out = qapi_encode(&qapi_type_str, &ret);\n'
                '    return true;\n' % (name, ', '.join(call + ['errp'])))
    if ret.is_pointer or ret.meta == 'list':
        return ('    qapi_auto(%s) ret = %s(%s);\n'
                '    if (!ret) {\n        return false;\n    }\n'
                '    *out = qapi_encode(&qapi_type_%s, ret);\n'
                '    return true;\n'
                % (type_, name, ', '.join(call + ['errp']), type_))
    return ('    %sret;\n    if (!%s(%s)) {\n        return false;\n    }\n'
            '    *out = qapi_encode(&qapi_type_%s, &ret);\n'
            '    return true;\n'
            % (c_decl(ret), name, ', '.join(call + ['&ret', 'errp']), type_))


def row(command):
    flags = [flag for flag, on in (
        ('QMP_COMMAND_OOB', command.allow_oob),
        ('QMP_COMMAND_PRECONFIG', command.allow_preconfig)) if on]
    out = ['    {.name = "%s",\n' % command.name]
    if command.args:
        out.append('     .args = &qapi_type_%s,\n' % c_type(command.args.name))
    if command.ret:
        out.append('     .ret = &qapi_type_%s,\n' % c_type(command.ret.name))
    if flags:
        out.append('     .flags = %s,\n' % ' | '.join(flags))
    if command.features:
        out.append('     .features = %s_features,\n' % handler(command))
    out.append('     .handler = (void (*)(void))%s,\n'
               '     .invoke = invoke_%s},\n' % (handler(command),
                                                 handler(command)))
    return ''.join(out)
