"""docs/qmp-reference.md: every command, event and type in people's words."""

from parser import Doc
from schema import Command, Event


def page(schema):
    out = ['# QMP reference\n\n'
           'Made from the schema in `qapi/` by `make docs`; edit that instead.\n'
           '\nNames in *italics* may be left out.\n']
    for thing in schema.order:
        if isinstance(thing, Doc):
            out.append('\n## %s\n' % thing.heading)
            out += paragraphs(thing.body)
        elif isinstance(thing, Command):
            out.append(entry(thing, 'command', thing.args, 'Arguments'))
        elif isinstance(thing, Event):
            out.append(entry(thing, 'event', thing.data, 'Data'))
        else:
            out.append(TYPES[thing.meta](thing))
    return ''.join(out)


def paragraphs(lines):
    return ['\n%s\n' % p for p in Doc.text(lines)]


def title(thing, kind):
    out = ['\n### %s (%s)\n' % (thing.name, kind)]
    out += paragraphs(thing.doc.body)
    return out


def rest(thing):
    out = []
    for name, lines in thing.doc.features.items():
        out.append('\nFeature `%s`: %s\n' % (name, ' '.join(Doc.text(lines))))
    for tag in ('Returns', 'Note', 'Since'):
        if tag in thing.doc.tags:
            out.append('\n%s: %s\n' % (tag,
                                       ' '.join(Doc.text(thing.doc.tags[tag]))))
    if 'Example' in thing.doc.tags:
        lines = [line[2:] if line.startswith('  ') else line
                 for line in thing.doc.tags['Example']]
        out.append('\n```json\n%s\n```\n' % '\n'.join(lines).strip('\n'))
    return out


def anchor(thing, kind):
    return '%s-%s' % (thing.lower(), kind)


def type_text(type_):
    if type_.meta == 'list':
        return 'list of ' + type_text(type_.element)
    if type_.where is None:
        return '`%s`' % type_.name
    return '[%s](#%s)' % (type_.name, anchor(type_.name, type_.meta))


def member_line(member):
    name = ('*%s*' if member.optional else '`%s`') % member.name
    text = ' '.join(Doc.text(member.doc))
    if member.features:
        text += ' (%s)' % ', '.join(member.features)
    type_ = ' (%s)' % type_text(member.type) if member.type else ''
    return '- %s%s: %s\n' % (name, type_, text)


def member_list(members, label):
    if not members:
        return []
    return ['\n%s:\n\n' % label] + [member_line(m) for m in members]


def entry(thing, kind, data, label):
    out = title(thing, kind)
    if data and getattr(data, 'implicit', False):
        out += member_list(data.members, label)
    elif data:
        out.append('\n%s: the members of %s\n' % (label, type_text(data)))
    if kind == 'command' and thing.ret and 'Returns' not in thing.doc.tags:
        out.append('\nReturns: %s\n' % type_text(thing.ret))
    return ''.join(out + rest(thing))


def enum(type_):
    return ''.join(title(type_, 'enum') + ['\n'] +
                   [member_line(v) for v in type_.values] + rest(type_))


def struct(type_):
    out = title(type_, type_.meta)
    if type_.base:
        out.append('\nHas the members of %s.\n' % type_text(type_.base))
    out += member_list(type_.members, 'Members')
    if type_.meta == 'union':
        out.append('\nBranches by `%s`:\n\n' % type_.discriminator)
        for value, branch in type_.branches:
            out.append('- `%s`: %s\n' % (
                value, type_text(branch) if branch else 'no more members'))
    return ''.join(out + rest(type_))


def alternate(type_):
    return ''.join(title(type_, 'alternate') +
                   member_list(type_.members, 'One of') + rest(type_))


TYPES = {'enum': enum, 'struct': struct, 'union': struct,
         'alternate': alternate}
