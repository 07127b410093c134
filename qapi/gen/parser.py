"""Reads QAPI schema files: python-like expressions, each after a doc block.

A doc block stands between two lines `##`; its first line is `@Name:`, then
free text, then one `@member:` section each, then optionally `Features:` with
`@feature:` sections, `Returns:`, `Since:`, `Note:` and `Example:`. A block whose
first line begins with `=` is a heading of the reference page.
"""

import os
import re


class SchemaError(Exception):
    """Anything wrong with the schema, with the place where it is."""

    def __init__(self, where, text):
        super().__init__('%s: %s' % (where, text))


class Doc:
    """One doc block, cut into its sections."""

    SECTION = re.compile(r'@([A-Za-z_][A-Za-z0-9_.-]*):(?:\s+(.*))?$')
    TAG = re.compile(r'(Returns|Since|Note|Example):(?:\s+(.*))?$')

    def __init__(self, lines, where):
        self.where = where
        self.heading = None
        self.name = None
        self.body = []
        self.members = {}
        self.features = {}
        self.tags = {}
        if lines and lines[0].startswith('='):
            self.heading = lines[0].lstrip('= ').strip()
            self.body = lines[1:]
            return
        match = self.SECTION.match(lines[0]) if lines else None
        if not match:
            raise SchemaError(where, 'a doc block begins with "# @Name:"')
        self.name = match.group(1)
        self._cut(lines[1:])

    def _cut(self, lines):
        target = self.body
        sections = self.members
        for line in lines:
            match = self.SECTION.match(line)
            tag = self.TAG.match(line)
            if line.strip() == 'Features:':
                sections = self.features
                target = []
            elif match:
                if match.group(1) in sections:
                    raise SchemaError(self.where, "'%s' is documented twice"
                                      % match.group(1))
                target = sections[match.group(1)] = []
                target.append(match.group(2) or '')
            elif tag:
                target = self.tags.setdefault(tag.group(1), [])
                target.append(tag.group(2) or '')
            else:
                target.append(line)

    @staticmethod
    def text(lines):
        """The paragraphs of a section, each on one line."""
        paragraphs = []
        current = []
        for line in list(lines) + ['']:
            if line.strip():
                current.append(line.strip())
            elif current:
                paragraphs.append(' '.join(current))
                current = []
        return paragraphs


class Parser:
    """Appends to .expressions a (dict, doc, where) each, and follows includes;
    headings go in as (None, doc, where)."""

    TOKEN = re.compile(r"(?P<blank>[ \t]+)|(?P<nl>\n)"
                       r"|(?P<doc>##[ \t]*\n(?:#(?!#).*\n)*##[ \t]*\n)"
                       r"|(?P<comment>#[^\n]*)|(?P<str>'[^'\\\n]*')"
                       r"|(?P<punct>[{}\[\]:,])|(?P<word>true|false)")

    def __init__(self, path, seen=None, expressions=None):
        self.path = path
        self.seen = seen if seen is not None else set()
        self.expressions = expressions if expressions is not None else []
        self.seen.add(os.path.realpath(path))
        with open(path, encoding='utf-8') as file:
            self.tokens = list(self._tokenise(file.read()))
        self.pos = 0
        doc = None
        while self.kind != 'end':
            if self.kind == 'doc':
                if doc:
                    raise SchemaError(doc.where, 'nothing follows this block')
                doc = self._doc()
                if doc.heading:
                    self.expressions.append((None, doc, doc.where))
                    doc = None
            else:
                self._statement(doc)
                doc = None

    def _tokenise(self, text):
        pos, line = 0, 1
        while pos < len(text):
            match = self.TOKEN.match(text, pos)
            if not match:
                raise SchemaError('%s:%d' % (self.path, line),
                                  'stray %r' % text[pos])
            if match.lastgroup in ('doc', 'str', 'punct', 'word'):
                yield match.lastgroup, match.group(), line
            pos = match.end()
            line += match.group().count('\n')
        yield 'end', 'end of file', line

    @property
    def kind(self):
        return self.tokens[self.pos][0]

    @property
    def where(self):
        return '%s:%d' % (self.path, self.tokens[self.pos][2])

    def _fail(self, text):
        raise SchemaError(self.where, text)

    def _doc(self):
        where = self.where
        lines = self._take().split('\n')[1:-2]
        for line in lines:
            if line[1:2] not in ('', ' '):
                raise SchemaError(where, 'a line of a doc block begins "# "')
        return Doc([line[2:].rstrip() for line in lines], where)

    def _take(self):
        self.pos += 1
        return self.tokens[self.pos - 1][1]

    def _statement(self, doc):
        where = self.where
        expr = self._value()
        if not isinstance(expr, dict):
            raise SchemaError(where, 'an expression is a {...}')
        if 'include' in expr:
            path = os.path.join(os.path.dirname(self.path), expr['include'])
            if not os.path.exists(path):
                raise SchemaError(where, 'no file %s' % path)
            if os.path.realpath(path) not in self.seen:
                Parser(path, self.seen, self.expressions)
            return
        self.expressions.append((expr, doc, where))

    def _value(self):
        if self._at('{'):
            return self._object()
        if self._at('['):
            return self._list()
        if self.kind == 'str':
            return self._take()[1:-1]
        if self.kind == 'word':
            return self._take() == 'true'
        return self._fail('unexpected %s' % self.tokens[self.pos][1])

    def _at(self, punct):
        return self.kind == 'punct' and self.tokens[self.pos][1] == punct

    def _expect(self, punct):
        if not self._at(punct):
            self._fail("expected '%s'" % punct)
        self.pos += 1

    def _object(self):
        result = {}
        self._expect('{')
        while not self._at('}'):
            if self.kind != 'str':
                self._fail('expected a name')
            key = self._take()[1:-1]
            if key in result:
                self._fail("duplicate '%s'" % key)
            self._expect(':')
            result[key] = self._value()
            if not self._at('}'):
                self._expect(',')
        self._expect('}')
        return result

    def _list(self):
        result = []
        self._expect('[')
        while not self._at(']'):
            result.append(self._value())
            if not self._at(']'):
                self._expect(',')
        self._expect(']')
        return result
