#!/usr/bin/python3
"""Makes C code, introspection data and the reference page from the schema.

    main.py --output DIR schema.json        writes DIR/qapi/*, DIR/qmp/*
    main.py --reference FILE schema.json    writes the reference page
"""

import argparse
import os
import sys

sys.dont_write_bytecode = True

import gen_commands  # noqa: E402
import gen_introspect  # noqa: E402
import gen_reference  # noqa: E402
import gen_types  # noqa: E402
from parser import SchemaError  # noqa: E402
from schema import Schema  # noqa: E402

FILES = {
    'qapi/types.h': gen_types.header,
    'qapi/types.c': gen_types.source,
    'qapi/introspect.c': gen_introspect.source,
    'qmp/commands.h': gen_commands.header,
    'qmp/commands.c': gen_commands.source,
    'schema.json': gen_introspect.as_json,
    'schema-names.json': gen_introspect.names_as_json,
}


def write(path, text):
    """Leaves an unchanged file alone, so that nothing is built again."""
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    if os.path.exists(path):
        with open(path, encoding='utf-8') as file:
            if file.read() == text:
                return
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output')
    parser.add_argument('--reference')
    parser.add_argument('schema')
    args = parser.parse_args()
    try:
        schema = Schema(args.schema)
        if args.output:
            for name, generate in FILES.items():
                write(os.path.join(args.output, name), generate(schema))
        if args.reference:
            write(args.reference, gen_reference.page(schema))
    except SchemaError as error:
        print('%s: %s' % (os.path.basename(sys.argv[0]), error),
              file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
