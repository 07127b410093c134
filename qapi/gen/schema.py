"""The checked model of a schema: types, commands and events.

Whatever reaches a Schema object is complete: names resolve, nothing clashes in
C, and every command, event, type, member and value has a doc text.
"""

import re

from cnames import c_member, c_type
from parser import Doc, Parser, SchemaError

NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]*$')


class Type:
    """meta: str bool int number any null enum struct union alternate list"""

    def __init__(self, name, meta, where=None, doc=None):
        self.name = name
        self.meta = meta
        self.where = where
        self.doc = doc
        self.features = {}

    @property
    def is_pointer(self):
        return self.meta in ('str', 'any', 'struct', 'union', 'alternate')

    @property
    def is_object(self):
        return self.meta in ('struct', 'union')


class Builtin(Type):
    def __init__(self, name, meta, c_decl, bits=0, signed=False):
        super().__init__(name, meta)
        self.c_decl = c_decl
        self.bits = bits
        self.signed = signed


class Member:
    def __init__(self, name, type_, optional=False, features=(), doc=()):
        self.name = name
        self.type = type_
        self.optional = optional
        self.features = features
        self.doc = doc

    @property
    def has_flag(self):
        return self.optional and not self.type.is_pointer


class Enum(Type):
    """values: list of Member without type"""


class Struct(Type):
    """base: Struct or None; members: its own only; implicit: made for the
    anonymous data of a command or event"""

    implicit = False

    def all_members(self):
        return (self.base.all_members() if self.base else []) + self.members


class Union(Struct):
    """tag: Member; branches: list of (value, Struct or None) in the order of
    the enum, None for a branch without members."""

    def full_branches(self):
        return [(v, t) for v, t in self.branches if t]


class Alternate(Type):
    """members: list of Member, each of another JSON kind"""


class List(Type):
    def __init__(self, element):
        super().__init__(element.name + 'List', 'list')
        self.element = element


class Command:
    def __init__(self, name, expr, doc, where):
        self.name, self.doc, self.where = name, doc, where
        self.gen = expr.get('gen', True)
        self.allow_oob = expr.get('allow-oob', False)
        self.allow_preconfig = expr.get('allow-preconfig', False)
        self.features = {}
        self.args = None
        self.ret = None


class Event:
    def __init__(self, name, expr, doc, where):
        self.name, self.doc, self.where = name, doc, where
        self.features = {}
        self.data = None


BUILTINS = [
    Builtin('str', 'str', 'char *'),
    Builtin('bool', 'bool', 'bool '),
    Builtin('number', 'number', 'double '),
    Builtin('any', 'any', 'struct json_object *'),
    Builtin('null', 'null', None),
    Builtin('int', 'int', 'int64_t ', 64, True),
    Builtin('size', 'int', 'uint64_t ', 64, False),
] + [
    Builtin('%sint%d' % (u, b), 'int', '%sint%d_t ' % (u, b), b, not u)
    for u in ('', 'u') for b in (8, 16, 32, 64)
]

KEYS = {
    'enum': {'data', 'features'},
    'struct': {'data', 'base', 'features'},
    'union': {'data', 'base', 'discriminator', 'features'},
    'alternate': {'data', 'features'},
    'command': {'data', 'returns', 'gen', 'boxed', 'coroutine', 'allow-oob',
                'allow-preconfig', 'success-response', 'features'},
    'event': {'data', 'boxed', 'features'},
}


class Schema:
    def __init__(self, path):
        self.types = {t.name: t for t in BUILTINS}
        self.lists = {}
        self.commands = []
        self.events = []
        # Everything in the order of the files, for the reference page.
        self.order = []
        self._expressions = Parser(path).expressions
        self._declare()
        self._define()
        self._check_c_names()

    # -- first pass: names ---------------------------------------------------

    def _declare(self):
        classes = {'enum': Enum, 'struct': Struct, 'union': Union,
                   'alternate': Alternate}
        self._pending = []
        for expr, doc, where in self._expressions:
            if expr is None:
                self.order.append(doc)
                continue
            meta = next((k for k in KEYS if k in expr), None)
            if not meta:
                raise SchemaError(where, 'neither a type nor a command')
            name = expr[meta]
            stray = set(expr) - KEYS[meta] - {meta}
            if stray:
                raise SchemaError(where, "'%s': unknown key %s"
                                  % (name, ', '.join(sorted(stray))))
            if not doc or doc.name != name:
                raise SchemaError(where, "'%s' lacks a doc block of its own"
                                  % name)
            if not doc_text(doc.body):
                raise SchemaError(doc.where, "'%s' is not described" % name)
            if meta in classes:
                if name in self.types:
                    raise SchemaError(where, "'%s' exists already" % name)
                thing = classes[meta](name, meta, where, doc)
                self.types[name] = thing
            else:
                thing = (Command if meta == 'command' else Event)(
                    name, expr, doc, where)
                known = self.commands if meta == 'command' else self.events
                if any(x.name == name for x in known):
                    raise SchemaError(where, "'%s' exists already" % name)
                known.append(thing)
            self.order.append(thing)
            self._pending.append((meta, thing, expr))

    # -- second pass: contents -----------------------------------------------

    def _define(self):
        for meta, thing, expr in self._pending:
            thing.features = self._features(expr, thing.doc, thing.where)
            self._used = set()
            getattr(self, '_define_' + meta)(thing, expr)
            for name in thing.doc.members:
                if name not in self._used:
                    raise SchemaError(thing.doc.where, "'%s' is documented "
                                      "but does not exist" % name)
        for thing in self.types.values():
            if thing.meta == 'union':
                self._check_union(thing)

    def _features(self, expr, doc, where):
        names = [f if isinstance(f, str) else f['name']
                 for f in expr.get('features', [])]
        if doc is not None:
            for name in names:
                if not doc_text(doc.features.get(name, [])):
                    raise SchemaError(where, "feature '%s' lacks a doc text"
                                      % name)
        return names

    def _doc_of(self, thing, name):
        self._used.add(name)
        text = thing.doc.members.get(name)
        if not text or not doc_text(text):
            raise SchemaError(thing.doc.where,
                              "member '%s' lacks a doc text" % name)
        return text

    def _type(self, ref, where):
        if isinstance(ref, list):
            if len(ref) != 1 or not isinstance(ref[0], str):
                raise SchemaError(where, 'a list type is [ \'Name\' ]')
            element = self._type(ref[0], where)
            if element.meta == 'null':
                raise SchemaError(where, 'a list of null')
            return self.lists.setdefault(ref[0], List(element))
        if ref not in self.types:
            raise SchemaError(where, "unknown type '%s'" % ref)
        return self.types[ref]

    def _members(self, data, thing):
        result = []
        for key, ref in data.items():
            optional = key.startswith('*')
            name = key.lstrip('*')
            if not NAME.match(name):
                raise SchemaError(thing.where, "bad member name '%s'" % name)
            features = ()
            if isinstance(ref, dict):
                features = self._features(ref, None, thing.where)
                ref = ref['type']
            type_ = self._type(ref, thing.where)
            if type_.meta == 'null':
                raise SchemaError(thing.where, "'%s' is null" % name)
            result.append(Member(name, type_, optional, features,
                                 self._doc_of(thing, name)))
        return result

    def _define_enum(self, thing, expr):
        thing.values = []
        for value in expr['data']:
            features = ()
            if isinstance(value, dict):
                features = self._features(value, None, thing.where)
                value = value['name']
            if not NAME.match(value):
                raise SchemaError(thing.where, "bad value '%s'" % value)
            thing.values.append(Member(value, None, False, features,
                                       self._doc_of(thing, value)))

    def _define_struct(self, thing, expr):
        thing.base = None
        if 'base' in expr:
            thing.base = self._object(expr['base'], thing.where, 'struct')
        thing.members = self._members(expr['data'], thing)

    def _define_union(self, thing, expr):
        thing.base = None
        thing.members = []
        if isinstance(expr['base'], dict):
            thing.members = self._members(expr['base'], thing)
        else:
            thing.base = self._object(expr['base'], thing.where, 'struct')
        thing.discriminator = expr['discriminator']
        thing.data = {k: self._object(v, thing.where)
                      for k, v in expr['data'].items()}

    def _define_alternate(self, thing, expr):
        thing.members = []
        kinds = set()
        for name, ref in expr['data'].items():
            type_ = self._type(ref, thing.where)
            kind = json_kind(type_)
            if kind is None or kind in kinds:
                raise SchemaError(thing.where, "'%s' cannot be told from the "
                                  "other members" % name)
            kinds.add(kind)
            thing.members.append(Member(name, type_, False, (),
                                        self._doc_of(thing, name)))

    def _anonymous(self, thing, data, suffix):
        """The struct for arguments that the schema gives in place."""
        type_ = Struct(thing.name + suffix, 'struct', thing.where, thing.doc)
        type_.base = None
        type_.members = self._members(data, thing)
        type_.implicit = True
        self.types[type_.name] = type_
        return type_

    def _data(self, thing, expr, suffix):
        data = expr.get('data')
        if not data:
            return None
        if isinstance(data, dict):
            return self._anonymous(thing, data, suffix)
        return self._object(data, thing.where)

    def _define_command(self, thing, expr):
        thing.args = self._data(thing, expr, '-args')
        if 'returns' in expr:
            thing.ret = self._type(expr['returns'], thing.where)

    def _define_event(self, thing, expr):
        thing.data = self._data(thing, expr,
                                '_EVENT' if thing.name.isupper() else '-event')

    def _object(self, name, where, meta=None):
        type_ = self._type(name, where)
        if not type_.is_object or (meta and type_.meta != meta):
            raise SchemaError(where, "'%s' is not a struct" % name)
        return type_

    # -- checks ----------------------------------------------------------------

    def _check_union(self, union):
        union.tag = next((m for m in union.all_members()
                          if m.name == union.discriminator), None)
        if not union.tag or union.tag.type.meta != 'enum':
            raise SchemaError(union.where, "discriminator '%s' is not an enum "
                              "of the base" % union.discriminator)
        if union.tag.optional:
            raise SchemaError(union.where, 'discriminator is optional')
        values = [v.name for v in union.tag.type.values]
        for name in union.data:
            if name not in values:
                raise SchemaError(union.where, "branch '%s' is not a value of "
                                  "'%s'" % (name, union.tag.type.name))
        union.branches = []
        for name in values:
            branch = union.data.get(name)
            if branch and not branch.all_members():
                branch = None
            if branch:
                clash = ({m.name for m in union.all_members()} &
                         {m.name for m in branch.all_members()})
                if clash:
                    raise SchemaError(union.where, "branch '%s' repeats %s"
                                      % (name, ', '.join(sorted(clash))))
            union.branches.append((name, branch))

    def _check_c_names(self):
        seen = {}
        for type_ in self.types.values():
            if isinstance(type_, Builtin):
                continue
            name = c_type(type_.name)
            if name in seen:
                raise SchemaError(type_.where, "'%s' and '%s' are the same in "
                                  "C" % (type_.name, seen[name]))
            seen[name] = type_.name
            if type_.is_object:
                names = [c_member(m.name) for m in type_.all_members()]
                names += ['has_' + c_member(m.name)
                          for m in type_.all_members() if m.has_flag]
                if type_.meta == 'union':
                    names.append('u')
                if len(set(names)) != len(names):
                    raise SchemaError(type_.where, "'%s': members clash in C"
                                      % type_.name)

    # -- views -----------------------------------------------------------------

    def defined(self, *metas):
        """The types that are not built in, in the order of the files, those
        for anonymous data last."""
        return [t for t in self.types.values()
                if not isinstance(t, Builtin) and t.meta in metas]

    def by_value_order(self):
        """Objects and alternates, each after what it contains by value."""
        done, result = set(), []

        def visit(type_, trail):
            if type_.name in done:
                return
            if type_.name in trail:
                raise SchemaError(type_.where, "'%s' contains itself"
                                  % type_.name)
            trail = trail | {type_.name}
            if type_.meta == 'union':
                for _, branch in type_.full_branches():
                    visit(branch, trail)
            elif type_.meta == 'alternate':
                for member in type_.members:
                    if member.type.is_object:
                        visit(member.type, trail)
            done.add(type_.name)
            result.append(type_)

        for type_ in self.defined('struct', 'union', 'alternate'):
            visit(type_, frozenset())
        return result


def doc_text(lines):
    return Doc.text(lines)


def json_kind(type_):
    """The JSON kind by which an alternate tells its members apart."""
    return {'str': 'string', 'enum': 'string', 'bool': 'bool', 'int': 'int',
            'number': 'number', 'null': 'null', 'struct': 'object',
            'union': 'object', 'list': 'array'}.get(type_.meta)
