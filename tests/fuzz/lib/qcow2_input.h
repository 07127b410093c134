/*
 * What the targets for qcow2 share: a disk in memory with any content, and an
 * image in it.
 *
 * The input is the file, byte by byte. Where it does not end with a sector, its
 * last bytes are a script for the target.
 */
#ifndef VARVE_TESTS_FUZZ_QCOW2_INPUT_H
#define VARVE_TESTS_FUZZ_QCOW2_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

#include "block/check_report.h"
#include "block/node.h"

struct qcow2_input {
    const uint8_t *data; /* the file */
    size_t size;
    const uint8_t *script;
    size_t script_left;
    struct node *disk; /* its node */
};

/* Runs co_one in a coroutine on a loop of its own, with the input in a disk.
 * Always 0. */
int qcow2_input_run(const uint8_t *data, size_t size,
                    void (*co_one)(struct qcow2_input *in));
/* Whether the image says that it has more snapshots than the input could
 * describe. They are read as zeroes from behind its end, which takes its time
 * and is the same each time. */
bool qcow2_input_is_tedious(const struct qcow2_input *in);
/* The next byte of the script; 0 behind its end. */
uint8_t qcow2_input_u8(struct qcow2_input *in);

enum qcow2_input_mode {
    QCOW2_INPUT_READ,
    QCOW2_INPUT_WRITE,
    QCOW2_INPUT_LOOK,   /* opened for a check */
    QCOW2_INPUT_REPAIR, /* the same, and writable */
};
/* The image in the disk, without its backing file; NULL if it is refused. */
struct node *co_qcow2_input_open(enum qcow2_input_mode mode);
/* Checks, and repairs what fix says ("", "leaks", "all"), what is in the disk.
 * False if that could not be done to its end; else *found says what is wrong.
 */
bool co_qcow2_input_check(const char *fix, struct check_report *found);

/* ---- qcow2_mutate.c ---- */

/* In place of libFuzzer's mutations: fields of tables get values that matter.
 * To be called by LLVMFuzzerCustomMutator(). */
size_t qcow2_mutate(uint8_t *data, size_t size, size_t max, unsigned seed);

#endif
