"""gdb commands for varve.

    (gdb) source scripts/gdb/varve-gdb.py
    (gdb) varve coroutines [LOOP-NAME]

`varve coroutines` prints the stack of every coroutine that is not running, by
loop. It follows saved frame pointers in memory and changes no register, so it
works on a core file as well as on a live process. The programs are built with
-fno-omit-frame-pointer for that.
"""

import gdb

# Words that context_switch_asm() leaves at the saved stack pointer
# (aio/context.c): (index of the frame pointer, index of the program counter).
SAVED = {"x86-64": (5, 6), "aarch64": (10, 11)}
MAX_FRAMES = 200


def architecture():
    name = gdb.selected_inferior().architecture().name()
    for key in SAVED:
        if key in name:
            return key
    raise gdb.GdbError("no coroutine stacks on " + name)


def read_word(address):
    word = gdb.lookup_type("unsigned long")
    return int(gdb.Value(address).cast(word.pointer()).dereference())


def functions_at(pc):
    """Names of the function at pc, those inlined into it first."""
    names = []
    block = gdb.block_for_pc(pc)
    while block is not None:
        if block.function is not None:
            names.append(block.function.print_name)
            if block.function.symtab is None or not inlined(block):
                break
        block = block.superblock
    return names or ["??"]


def inlined(block):
    outer = block.superblock
    while outer is not None and not outer.is_static:
        if outer.function is not None:
            return True
        outer = outer.superblock
    return False


def print_frame(number, pc, is_return_address):
    # A return address may already belong to the next line.
    at = pc - 1 if is_return_address else pc
    line = gdb.find_pc_line(at)
    where = f" at {line.symtab.filename}:{line.line}" if line.symtab else ""
    names = functions_at(at)
    print(f"    #{number:<3}{pc:#x} in {names[0]}{where}")
    for name in names[1:]:
        print(f"         inlined into {name}")


def print_stack(co):
    fp_index, pc_index = SAVED[architecture()]
    sp = int(co["ctx"]["sp"])
    word = gdb.lookup_type("unsigned long").sizeof
    pc = read_word(sp + pc_index * word)
    fp = read_word(sp + fp_index * word)
    for number in range(MAX_FRAMES):
        print_frame(number, pc, True)
        if fp == 0:
            return
        try:
            fp, pc = read_word(fp), read_word(fp + word)
        except gdb.MemoryError:
            print("    (the frame pointer leads out of the stack)")
            return
        if pc == 0:
            return


def walk(first, link):
    while int(first) != 0:
        yield first
        first = first[link]


def loops():
    symbol = gdb.lookup_static_symbol("all_loops")
    if symbol is None:
        raise gdb.GdbError("this program has no varve loops")
    return walk(symbol.value(), "all_next")


class Varve(gdb.Command):
    """Commands for varve's own objects."""

    def __init__(self):
        super().__init__("varve", gdb.COMMAND_DATA, prefix=True)


class VarveCoroutines(gdb.Command):
    """Print the stacks of all coroutines: varve coroutines [LOOP-NAME]"""

    def __init__(self):
        super().__init__("varve coroutines", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        wanted = argument.strip()
        for loop in loops():
            name = loop["name"].string()
            if wanted and wanted != name:
                continue
            stacks = loop["stacks"]
            print(f"loop {name}: {int(stacks['live'])} coroutines, "
                  f"{int(stacks['pooled'])} pooled stacks")
            for co in walk(stacks["all"], "all_next"):
                self.print_coroutine(co)

    @staticmethod
    def print_coroutine(co):
        state = str(co["state"])
        if state == "CO_POOLED":
            return
        if co["queued"]:
            state += ", to be resumed in this pass"
        print(f"  coroutine {int(co):#x} {co['fn']} opaque "
              f"{int(co['opaque']):#x} ({state})")
        if state == "CO_RUNNING":
            print("    (runs now, or has entered the one that does; "
                  "where it last suspended:)")
        print_stack(co)


Varve()
VarveCoroutines()
