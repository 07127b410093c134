"""qapi/types.h and qapi/types.c: C structs, and the tables that describe them."""

from cnames import c_enum, c_member, c_type
from schema import Builtin

BANNER = '/* Made by qapi/gen from the schema; edit that instead. */\n'

FIXED_LISTS = {'str', 'int', 'size', 'number', 'bool', 'any', 'int8', 'int16',
               'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64'}


def c_decl(type_):
    """What stands before a member's name."""
    if isinstance(type_, Builtin):
        return type_.c_decl
    if type_.meta == 'enum':
        return 'enum %s ' % c_type(type_.name)
    if type_.meta == 'list':
        return 'struct %s ' % c_type(type_.name)
    return 'struct %s *' % c_type(type_.name)



def used_lists(schema):
    return sorted(schema.lists.values(), key=lambda l: l.name)


# -- types.h -----------------------------------------------------------------


def header(schema):
    out = [BANNER, '#ifndef VARVE_GEN_QAPI_TYPES_H\n'
           '#define VARVE_GEN_QAPI_TYPES_H\n\n'
           '#include "qapi/codec.h"\n#include "qapi/lists.h"\n\n']
    for enum in schema.defined('enum'):
        out.append(enum_decl(enum))
    objects = schema.by_value_order()
    for type_ in objects:
        out.append('struct %s;\n' % c_type(type_.name))
    out.append('\n')
    for list_ in used_lists(schema):
        if list_.element.name not in FIXED_LISTS:
            out.append('struct %s {\n    size_t n;\n    %sitems;\n};\n\n'
                       % (c_type(list_.name), c_decl(list_.element) + '*'))
    for type_ in objects:
        out.append(alternate_decl(type_) if type_.meta == 'alternate'
                   else struct_decl(type_))
    for type_ in objects + [l for l in used_lists(schema)
                            if l.element.name not in FIXED_LISTS]:
        out.append('QAPI_DECLARE(%s)\n' % c_type(type_.name))
    for enum in schema.defined('enum'):
        out.append('extern const struct qapi_type qapi_type_%s;\n'
                   % c_type(enum.name))
    out.append(events_decl(schema))
    out.append('\n#endif\n')
    return ''.join(out)


def enum_decl(enum):
    name = c_type(enum.name)
    out = ['enum %s {\n' % name]
    out += ['    %s,\n' % c_enum(enum.name, v.name) for v in enum.values]
    out += ['};\n',
            '#define %s__COUNT %d\n' % (name.upper(), len(enum.values)),
            '/* The name on the wire. */\n',
            'const char *%s_str(enum %s value);\n' % (name, name),
            '/* false, and *value untouched, if text is none of them. */\n',
            'bool %s_parse(const char *text, enum %s *value);\n\n'
            % (name, name)]
    return ''.join(out)


def struct_decl(type_):
    out = ['struct %s {\n' % c_type(type_.name)]
    for member in type_.all_members():
        if member.has_flag:
            out.append('    bool has_%s;\n' % c_member(member.name))
        out.append('    %s%s;\n' % (c_decl(member.type),
                                    c_member(member.name)))
    if type_.meta == 'union' and type_.full_branches():
        out.append('    union {\n')
        for value, branch in type_.full_branches():
            out.append('        struct %s %s;\n' % (c_type(branch.name),
                                                    c_member(value)))
        out.append('    } u;\n')
    if len(out) == 1:
        out.append('    char empty_; /* C has no empty structs */\n')
    out.append('};\n\n')
    return ''.join(out)


def alternate_decl(type_):
    out = ['struct %s {\n    enum qapi_kind kind;\n    union {\n'
           % c_type(type_.name)]
    for member in type_.members:
        name = c_member(member.name)
        if member.type.is_object:
            out.append('        struct %s %s;\n' % (c_type(member.type.name),
                                                    name))
        elif member.type.meta != 'null':
            out.append('        %s%s;\n' % (c_decl(member.type), name))
    out.append('    } u;\n};\n\n')
    return ''.join(out)


def event_name(event):
    return c_type(event.name)


def events_decl(schema):
    events = sorted(schema.events, key=lambda e: e.name)
    if not events:
        return ''
    out = ['\nenum qapi_event {\n']
    out += ['    %s,\n' % c_enum('QapiEvent', e.name) for e in events]
    out += ['};\n#define QAPI_EVENT__COUNT %d\n' % len(events),
            '/* Name and data type (NULL without data) by enum qapi_event. */\n'
            'extern const struct qapi_event_info '
            'qapi_events[QAPI_EVENT__COUNT];\n\n'
            '/* {"event": ..., "data": ...}; the caller owns it, and adds the '
            'timestamp. */\n']
    for event in events:
        arg = ('const struct %s *data' % c_type(event.data.name)
               if event.data else 'void')
        out.append('static inline struct json_object *qapi_event_%s(%s)\n'
                   '{\n    return qapi_event_build(&qapi_events[%s], %s);\n'
                   '}\n' % (event_name(event), arg,
                            c_enum('QapiEvent', event.name),
                            'data' if event.data else 'NULL'))
    return ''.join(out)


# -- types.c -----------------------------------------------------------------


def source(schema):
    out = [BANNER, '#include "qapi/types.h"\n\n']
    for list_ in used_lists(schema):
        if list_.element.name not in FIXED_LISTS:
            out.append(list_table(list_))
    for enum in schema.defined('enum'):
        out.append(enum_table(enum))
    for type_ in schema.by_value_order():
        out.append(alternate_table(type_) if type_.meta == 'alternate'
                   else struct_table(type_))
    out.append(event_table(schema))
    return ''.join(out)


def list_table(list_):
    name = c_type(list_.name)
    return ('const struct qapi_type qapi_type_%s = {\n'
            '    .name = "%s",\n    .meta = QAPI_META_LIST,\n'
            '    .size = sizeof(struct %s),\n'
            '    .element = &qapi_type_%s,\n};\n\n'
            % (name, list_.name, name, c_type(list_.element.name)))


def enum_table(enum):
    name = c_type(enum.name)
    values = ''.join('    "%s",\n' % v.name for v in enum.values)
    return ('static const char *const %(n)s_values[] = {\n%(v)s};\n\n'
            'const struct qapi_type qapi_type_%(n)s = {\n'
            '    .name = "%(q)s",\n    .meta = QAPI_META_ENUM,\n'
            '    .size = sizeof(enum %(n)s),\n    .n = %(c)d,\n'
            '    .values = %(n)s_values,\n};\n\n'
            'const char *%(n)s_str(enum %(n)s value)\n{\n'
            '    return qapi_enum_str(&qapi_type_%(n)s, value);\n}\n\n'
            'bool %(n)s_parse(const char *text, enum %(n)s *value)\n{\n'
            '    int found = qapi_enum_parse(&qapi_type_%(n)s, text);\n'
            '    if (found < 0) {\n        return false;\n    }\n'
            '    *value = (enum %(n)s)found;\n    return true;\n}\n\n'
            % {'n': name, 'q': enum.name, 'v': values,
               'c': len(enum.values)})


def member_row(struct, member):
    name = c_member(member.name)
    row = ('    {.name = "%s",\n     .type = &qapi_type_%s,\n'
           '     .offset = offsetof(struct %s, %s)'
           % (member.name, c_type(member.type.name), struct, name))
    if member.optional:
        row += ',\n     .optional = true'
    if member.has_flag:
        row += (',\n     .has_flag = true,\n'
                '     .has_offset = offsetof(struct %s, has_%s)'
                % (struct, name))
    return row + '},\n'


def struct_table(type_):
    name = c_type(type_.name)
    members = type_.all_members()
    out = []
    if members:
        out.append('static const struct qapi_member %s_members[] = {\n' % name)
        out += [member_row(name, m) for m in members]
        out.append('};\n\n')
    if type_.meta == 'union':
        out.append('static const struct qapi_type *const %s_branches[] = {\n'
                   % name)
        for value, branch in type_.full_branches():
            out.append('    [%s] = &qapi_type_%s,\n'
                       % (c_enum(type_.tag.type.name, value),
                          c_type(branch.name)))
        out.append('    [%d] = NULL,\n};\n\n' % len(type_.branches))
    out.append('const struct qapi_type qapi_type_%s = {\n'
               '    .name = "%s",\n    .meta = QAPI_META_STRUCT,\n'
               '    .size = sizeof(struct %s),\n    .n = %d,\n'
               % (name, type_.name, name, len(members)))
    if members:
        out.append('    .members = %s_members,\n' % name)
    if type_.meta == 'union':
        out.append('    .branches = %s_branches,\n    .tag = %d,\n'
                   % (name, members.index(type_.tag)))
        if type_.full_branches():
            out.append('    .u_offset = offsetof(struct %s, u),\n' % name)
    out.append('};\n\n')
    return ''.join(out)


def alternate_table(type_):
    name = c_type(type_.name)
    rows = ''.join('    {.name = "%s", .type = &qapi_type_%s},\n'
                   % (m.name, c_type(m.type.name)) for m in type_.members)
    return ('static const struct qapi_member %(n)s_members[] = {\n%(r)s};\n\n'
            'const struct qapi_type qapi_type_%(n)s = {\n'
            '    .name = "%(q)s",\n    .meta = QAPI_META_ALTERNATE,\n'
            '    .size = sizeof(struct %(n)s),\n    .n = %(c)d,\n'
            '    .members = %(n)s_members,\n'
            '    .u_offset = offsetof(struct %(n)s, u),\n};\n\n'
            % {'n': name, 'q': type_.name, 'r': rows,
               'c': len(type_.members)})


def event_table(schema):
    if not schema.events:
        return ''
    out = ['const struct qapi_event_info qapi_events[QAPI_EVENT__COUNT] = {\n']
    for event in sorted(schema.events, key=lambda e: e.name):
        out.append('    [%s] = {.name = "%s"' % (c_enum('QapiEvent',
                                                        event.name),
                                                 event.name))
        if event.data:
            out.append(', .data = &qapi_type_%s' % c_type(event.data.name))
        out.append('},\n')
    out.append('};\n')
    return ''.join(out)
