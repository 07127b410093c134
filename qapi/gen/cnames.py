"""How schema names become C names; the one place that decides."""

import re

# Keywords of C11 and macros of the headers that our sources include.
RESERVED = set('''
    auto break case char const continue default do double else enum extern
    float for goto if inline int long register restrict return short signed
    sizeof static struct switch typedef union unsigned void volatile while
    bool true false asm typeof errno unix linux stdin stdout stderr
'''.split())


def c_member(name):
    """'x-perf' -> x_perf, 'default' -> default_"""
    name = re.sub(r'[.-]', '_', name)
    return name + '_' if name in RESERVED else name


def c_type(name):
    """BlockdevOptionsQcow2 -> blockdev_options_qcow2, IOThreadInfo ->
    io_thread_info, and event names such as JOB_STATUS_CHANGE -> lower case."""
    name = re.sub(r'[.-]', '_', name)
    if name == name.upper():
        return name.lower()
    name = re.sub(r'([a-z0-9])([A-Z])', r'\1_\2', name)
    name = re.sub(r'([A-Z])([A-Z][a-z])', r'\1_\2', name)
    return name.lower()


def c_enum(type_name, value):
    return '%s_%s' % (c_type(type_name).upper(),
                      re.sub(r'[.-]', '_', value).upper())


def c_string(text):
    return '"%s"' % text.replace('\\', '\\\\').replace('"', '\\"')
