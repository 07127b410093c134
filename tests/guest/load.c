/*
 * Load for a disk, and the proof that the disk keeps what it was told. Runs in
 * the guest.
 *
 * usage: load DEVICE WORKERS FILE
 *
 * Each worker has a part of the disk of its own, and writes and reads pieces of
 * 4 KiB to 64 KiB in it past the page cache, one after the other, until FILE
 * exists; a worker remembers what it wrote, and compares whatever it reads. At
 * the end each reads its whole part. Prints the number of requests; the exit
 * status is 0 if nothing failed and nothing differed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK      4096
#define MAX_BLOCKS 16

struct worker {
    int fd;
    uint64_t first, blocks; /* of the disk */
    uint32_t *generations;  /* 0: never written */
    uint64_t *buf;
    uint64_t seed, requests;
};

static uint32_t number(struct worker *w, uint32_t below)
{
    w->seed ^= w->seed << 13;
    w->seed ^= w->seed >> 7;
    w->seed ^= w->seed << 17;
    return (w->seed >> 16) % below;
}

static void die(const char *what, uint64_t block)
{
    printf("%s of block %llu: %s\n", what, (unsigned long long)block,
           errno ? strerror(errno) : "something else is there");
    fflush(stdout);
    _exit(1);
}

/* Differs from word to word, so that no piece can stand for another one. */
static uint64_t word(uint64_t block, uint32_t generation, unsigned i)
{
    return generation ? (block << 32 | generation) * 0x9e3779b97f4a7c15u + i
                      : 0;
}

static void write_blocks(struct worker *w, uint64_t at, unsigned n)
{
    for (unsigned b = 0; b < n; b++) {
        uint32_t generation = ++w->generations[at + b];

        for (unsigned i = 0; i < BLOCK / 8; i++) {
            w->buf[b * (BLOCK / 8) + i] =
                word(w->first + at + b, generation, i);
        }
    }
    errno = 0;
    if (pwrite(w->fd, w->buf, n * BLOCK, (w->first + at) * BLOCK) !=
        n * BLOCK) {
        die("write", w->first + at);
    }
}

static void compare_blocks(struct worker *w, uint64_t at, unsigned n)
{
    memset(w->buf, 0x5a, n * BLOCK);
    errno = 0;
    if (pread(w->fd, w->buf, n * BLOCK, (w->first + at) * BLOCK) != n * BLOCK) {
        die("read", w->first + at);
    }
    for (unsigned b = 0; b < n; b++) {
        for (unsigned i = 0; i < BLOCK / 8; i++) {
            if (w->buf[b * (BLOCK / 8) + i] !=
                word(w->first + at + b, w->generations[at + b], i)) {
                die("read", w->first + at + b);
            }
        }
    }
}

static void work(struct worker *w, const char *until)
{
    while (access(until, F_OK) < 0) {
        unsigned n = 1 + number(w, MAX_BLOCKS);
        uint64_t at = number(w, w->blocks - n);
        unsigned what = number(w, 16);

        if (!what && fdatasync(w->fd) < 0) {
            die("flush", w->first);
        } else if (what < 10) {
            write_blocks(w, at, n);
        } else {
            compare_blocks(w, at, n);
        }
        w->requests++;
    }
    for (uint64_t at = 0; at + MAX_BLOCKS <= w->blocks; at += MAX_BLOCKS) {
        compare_blocks(w, at, MAX_BLOCKS);
    }
}

static void run_worker(const char *path, unsigned index, unsigned count,
                       const char *until)
{
    struct worker w = {.seed = 88172645463325252u + index};

    w.fd = open(path, O_RDWR | O_DIRECT);
    if (w.fd < 0) {
        die("opening", 0);
    }
    w.blocks = lseek(w.fd, 0, SEEK_END) / BLOCK / count;
    w.first = index * w.blocks;
    w.generations = calloc(w.blocks, sizeof(*w.generations));
    if (!w.generations || w.blocks <= MAX_BLOCKS ||
        posix_memalign((void **)&w.buf, BLOCK, MAX_BLOCKS * BLOCK)) {
        die("setting up", 0);
    }
    work(&w, until);
    printf("%llu requests\n", (unsigned long long)w.requests);
    fflush(stdout);
    _exit(0);
}

int main(int argc, char **argv)
{
    unsigned count = argc == 4 ? atoi(argv[2]) : 0;
    int status, failed = 0;

    if (!count) {
        fprintf(stderr, "usage: load DEVICE WORKERS FILE\n");
        return 2;
    }
    for (unsigned i = 0; i < count; i++) {
        if (!fork()) {
            run_worker(argv[1], i, count, argv[3]);
        }
    }
    while (wait(&status) > 0) {
        failed |= status;
    }
    return failed ? 1 : 0;
}
