"""qapi/introspect.c and schema.json: what query-qmp-schema answers.

Type names are numbers, as the QMP specification leaves them free to be, so that
nobody comes to depend on them. The C table holds each entry as JSON text with
the entries that it refers to, so that commands without a handler, and the types
that only they use, can be left out of the answer.
"""

import json

from cnames import c_string
from gen_types import BANNER
from schema import Builtin

JSON_TYPES = {'str': 'string', 'int': 'int', 'number': 'number',
              'bool': 'boolean', 'any': 'value', 'null': 'null'}


class Introspection:
    """entries: list of [dict, set of indices that it refers to]"""

    def __init__(self, schema):
        self.entries = []
        self._index = {}
        self._empty = None
        # What the numbers stand for; never part of an answer.
        self.names = {}
        for command in sorted(schema.commands, key=lambda c: c.name):
            self._command(command)
        for event in sorted(schema.events, key=lambda e: e.name):
            refs = set()
            self._add({'name': event.name, 'meta-type': 'event',
                       'arg-type': self._object(event.data, refs)},
                      event.features, refs)

    def _add(self, entry, features, refs):
        if features:
            entry['features'] = list(features)
        self.entries.append([entry, refs])

    def _command(self, command):
        refs = set()
        entry = {'name': command.name, 'meta-type': 'command',
                 'arg-type': self._object(command.args, refs),
                 'ret-type': (self._ref(command.ret, refs) if command.ret
                              else self._object(None, refs))}
        if command.allow_oob:
            entry['allow-oob'] = True
        self._add(entry, command.features, refs)

    def _object(self, type_, refs):
        if type_:
            return self._ref(type_, refs)
        if self._empty is None:
            self._empty = self._reserve()
            self._fill(self._empty, {'name': str(self._empty),
                                     'meta-type': 'object', 'members': []},
                       (), set())
        refs.add(self._empty)
        return str(self._empty)

    def _reserve(self):
        self.entries.append(None)
        return len(self.entries) - 1

    def _fill(self, index, entry, features, refs):
        if features:
            entry['features'] = list(features)
        self.entries[index] = [entry, refs]

    def _ref(self, type_, refs):
        """The name of a type in the answer; adds the type if it is new."""
        if isinstance(type_, Builtin):
            type_name = 'int' if type_.meta == 'int' else type_.name
            key = type_name
        elif type_.meta == 'list':
            inner = set()
            element = self._ref(type_.element, inner)
            key = type_name = '[%s]' % element
        else:
            key, type_name = type_.name, None
        if key in self._index:
            refs.add(self._index[key])
            return self.entries[self._index[key]][0]['name']
        index = self._index[key] = self._reserve()
        refs.add(index)
        name = type_name or str(index)
        self.names[name] = type_.name
        self.entries[index] = [{'name': name}, set()]
        getattr(self, '_type_' + type_.meta, self._type_builtin)(
            index, name, type_)
        return name

    def _type_builtin(self, index, name, type_):
        self._fill(index, {'name': name, 'meta-type': 'builtin',
                           'json-type': JSON_TYPES[type_.meta]}, (), set())

    def _type_list(self, index, name, type_):
        refs = set()
        self._fill(index, {'name': name, 'meta-type': 'array',
                           'element-type': self._ref(type_.element, refs)},
                   (), refs)

    def _type_enum(self, index, name, type_):
        members = []
        for value in type_.values:
            member = {'name': value.name}
            if value.features:
                member['features'] = list(value.features)
            members.append(member)
        self._fill(index, {'name': name, 'meta-type': 'enum',
                           'members': members,
                           'values': [v.name for v in type_.values]},
                   type_.features, set())

    def _members(self, type_, refs):
        result = []
        for member in type_.all_members():
            entry = {'name': member.name, 'type': self._ref(member.type, refs)}
            if member.optional:
                entry['default'] = None
            if member.features:
                entry['features'] = list(member.features)
            result.append(entry)
        return result

    def _type_struct(self, index, name, type_):
        refs = set()
        self._fill(index, {'name': name, 'meta-type': 'object',
                           'members': self._members(type_, refs)},
                   type_.features, refs)

    def _type_union(self, index, name, type_):
        refs = set()
        entry = {'name': name, 'meta-type': 'object',
                 'members': self._members(type_, refs),
                 'tag': type_.tag.name,
                 'variants': [{'case': value,
                               'type': self._object(branch, refs)}
                              for value, branch in type_.branches]}
        self._fill(index, entry, type_.features, refs)

    def _type_alternate(self, index, name, type_):
        refs = set()
        self._fill(index, {'name': name, 'meta-type': 'alternate',
                           'members': [{'type': self._ref(m.type, refs)}
                                       for m in type_.members]},
                   type_.features, refs)


def names_as_json(schema):
    return json.dumps(Introspection(schema).names, indent=1) + '\n'


def as_json(schema):
    entries = [e for e, _ in Introspection(schema).entries]
    return json.dumps(entries, indent=1) + '\n'


def source(schema):
    entries = Introspection(schema).entries
    out = [BANNER, '#include "qapi/introspect.h"\n\n']
    for index, (_, refs) in enumerate(entries):
        if refs:
            out.append('static const uint16_t refs_%d[] = {%s};\n'
                       % (index, ', '.join(str(r) for r in sorted(refs))))
    out.append('\nconst struct qapi_schema_entry qapi_schema[] = {\n')
    for index, (entry, refs) in enumerate(entries):
        text = json.dumps(entry, separators=(',', ':'))
        pieces = [text[i:i + 60] for i in range(0, len(text), 60)]
        out.append('    {.json = %s' % '\n             '.join(
            c_string(p) for p in pieces))
        if entry['meta-type'] in ('command', 'event'):
            out.append(',\n     .%s = "%s"' % (entry['meta-type'],
                                               entry['name']))
        if refs:
            out.append(',\n     .refs = refs_%d,\n     .n_refs = %d'
                       % (index, len(refs)))
        out.append('},\n')
    out.append('};\nconst size_t qapi_schema_count = %d;\n' % len(entries))
    return ''.join(out)
