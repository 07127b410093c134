/*
 * A process that may be killed between any two instructions.
 *
 * A child drives a ring with books, driver and device in one, on shared memory;
 * where it matters the parent lets it go on by single instructions. Whenever
 * memory has changed, a copy of it is what a kill would have left, and a queue
 * is started on the copy: each request that was made available must have ended,
 * or be done again, or still be on the ring: exactly one of these, in order.
 *
 * A request is known by a number that is the length of its buffer, and later
 * the length that was written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "aio/atomic.h"
#include "hw/virtio-blk/inflight.h"
#include "hw/virtio-blk/virtio_defs.h"
#include "hw/virtio-blk/virtqueue.h"

enum {
    SIZE = 8,
    GPA = 0x10000,
    AVAIL = 0x200, /* of memory; also the driver's event structure */
    USED = 0x280,  /* also the device's event structure */
    BYTES = 0x300,
    MAX_REQUESTS = 64,
};

/* All that outlives the child. */
struct shared {
    uint8_t ram[BYTES];
    _Alignas(64) uint8_t region[512];
    /* The driver's notes: requests that it wants to show, and has shown. */
    uint32_t intended, shown;
    uint8_t ended[MAX_REQUESTS];
    uint16_t last_used; /* index or position */
};

static struct shared *shared; /* the child's */
static struct shared replica; /* what a kill leaves */
static bool packed;

struct slot {
    struct vq_chain chain;
};

/* ---- a driver ---- */

static uint16_t next_avail;            /* index or position */
static uint16_t free_ids[SIZE], frees; /* of descriptors, buffer ids */
static unsigned descs_of[SIZE];

static struct vring_desc *table(struct shared *s)
{
    return (void *)s->ram;
}

static struct vring_packed_desc *ring(struct shared *s)
{
    return (void *)s->ram;
}

static struct vring_avail *avail(struct shared *s)
{
    return (void *)(s->ram + AVAIL);
}

static struct vring_used *used(struct shared *s)
{
    return (void *)(s->ram + USED);
}

/* A request of one buffer, or of two where the number is odd (packed). */
static void add_packed(unsigned number)
{
    uint16_t id = free_ids[--frees], first = next_avail;
    unsigned descs = 1 + number % 2;
    uint16_t flags[2];

    descs_of[id] = descs;
    for (unsigned i = 0; i < descs; i++) {
        struct vring_packed_desc *d =
            &ring(shared)[vring_packed_index(next_avail)];

        d->addr = GPA;
        d->len = i ? 1 : number + 1;
        d->id = id;
        flags[i] = vring_packed_avail(next_avail) |
                   (i + 1 < descs ? VRING_DESC_F_NEXT : 0) |
                   (i ? VRING_DESC_F_WRITE : 0);
        if (i) {
            d->flags = flags[i];
        }
        next_avail = vring_packed_advance(next_avail, 1, SIZE);
    }
    shared->intended = number + 1;
    compiler_barrier();
    store_release_u16(&ring(shared)[vring_packed_index(first)].flags, flags[0]);
    shared->shown = number + 1;
}

static void add_split(unsigned number)
{
    uint16_t head = free_ids[--frees];

    table(shared)[head] = (struct vring_desc){GPA, number + 1, 0, 0};
    avail(shared)->ring[next_avail++ % SIZE] = head;
    shared->intended = number + 1;
    compiler_barrier();
    store_release_u16(&avail(shared)->idx, next_avail);
    shared->shown = number + 1;
}

/* The next used request's number and id; false: none. */
static bool used_at(struct shared *s, uint16_t at, unsigned *number,
                    uint16_t *id)
{
    if (packed) {
        const struct vring_packed_desc *d = &ring(s)[vring_packed_index(at)];

        *number = d->len - 1;
        *id = d->id;
        return vring_packed_marked(d->flags, vring_packed_used(at));
    }
    const struct vring_used_elem *e = &used(s)->ring[at % SIZE];

    *number = e->len - 1;
    *id = e->id;
    return at != used(s)->idx;
}

static uint16_t after(uint16_t at, uint16_t id)
{
    return packed ? vring_packed_advance(at, descs_of[id], SIZE) : at + 1;
}

static void reap(void)
{
    unsigned number;
    uint16_t id;

    while (used_at(shared, shared->last_used, &number, &id)) {
        shared->ended[number]++;
        compiler_barrier();
        shared->last_used = after(shared->last_used, id);
        free_ids[frees++] = id;
    }
}

/* ---- the child ---- */

static struct virtqueue vq;
static struct inflight inflight;

static const struct ring_format *format(void)
{
    return packed ? &packed_ring_format : &split_ring_format;
}

/* From here on by single instructions, or at full speed again. */
static void single_steps(bool on)
{
    raise(on ? SIGUSR1 : SIGUSR2);
}

static bool start(struct shared *s, struct guest_memory *memory)
{
    struct guest_region r = {GPA, BYTES, s->ram};
    struct virtqueue_setup setup = {
        .size = SIZE,
        .desc = GPA,
        .avail = GPA + AVAIL,
        .used = GPA + USED,
        .avail_idx = format()->first,
        .used_idx = packed ? format()->first : used(s)->idx,
        .inflight = &inflight,
    };

    g_assert(guest_memory_set(memory, &r, 1, NULL));
    inflight_destroy(&inflight);
    inflight_init(&inflight, s->region, SIZE);
    if (s == shared) {
        single_steps(true);
    }
    bool ok = virtqueue_start(&vq, format(), memory, &setup);

    if (s == shared) {
        single_steps(false);
    }
    return ok;
}

static uint16_t heads[SIZE];
static unsigned popped;

static void pop(unsigned n)
{
    single_steps(true);
    int got = virtqueue_pop(&vq, heads + popped, n);

    single_steps(false);
    g_assert(got == (int)n);
    popped += n;
}

/* Gives back the i-th of those that were popped. */
static void push(unsigned i)
{
    struct slot *s = virtqueue_slot(&vq, heads[i]);

    single_steps(true);
    virtqueue_push(&vq, heads[i], s->chain.readable_bytes);
    single_steps(false);
    memmove(heads + i, heads + i + 1, (--popped - i) * sizeof(*heads));
}

static void must_start(struct guest_memory *memory)
{
    if (!start(shared, memory)) {
        g_error("the queue does not start");
    }
}

/* A letter a step: a request is added, N are popped, the N-th is pushed, a
 * batch is shown, the driver looks, the device ends and starts anew. */
static void play(const char *script, struct guest_memory *memory)
{
    unsigned number = 0;

    for (const char *s = script; *s; s++) {
        if (*s == 'a') {
            packed ? add_packed(number) : add_split(number);
            number++;
        } else if (*s == 'p') {
            pop(*++s - '0');
        } else if (*s == 'e') {
            push(*++s - '0');
        } else if (*s == 's') {
            single_steps(true);
            virtqueue_publish(&vq);
            single_steps(false);
        } else if (*s == 'r') {
            reap();
        } else {
            virtqueue_stop(&vq);
            popped = 0;
            must_start(memory);
        }
    }
}

static void child(const char *script)
{
    struct guest_memory memory = {0};

    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    must_start(&memory);
    play(script, &memory);
    _exit(0);
}

/* ---- the parent ---- */

static unsigned counts[MAX_REQUESTS];

static void count_chain(uint16_t head, int *last)
{
    struct slot *s = virtqueue_slot(&vq, head);
    int number = s->chain.readable_bytes - 1;

    assert_in_range(number, 0, MAX_REQUESTS - 1);
    assert_true(number > *last);
    *last = number;
    counts[number]++;
}

static void count_ended(void)
{
    uint16_t at = replica.last_used, id;
    unsigned number;

    for (unsigned i = 0; i < MAX_REQUESTS; i++) {
        assert_true(replica.ended[i] <= 1);
        counts[i] += replica.ended[i];
    }
    while (used_at(&replica, at, &number, &id)) {
        /* The driver may have noted it just before. */
        assert_true(number < MAX_REQUESTS);
        counts[number] = 1;
        at = packed ? vring_packed_advance(at, 1 + number % 2, SIZE) : at + 1;
    }
}

static void check_what_a_kill_leaves(void)
{
    struct guest_memory memory = {0};
    uint16_t got[2 * SIZE];
    int last = -1, n;
    unsigned total = 0;

    /* A second crash right after the first changes nothing. */
    for (unsigned i = 0; i < 2; i++) {
        if (!start(&replica, &memory)) {
            fail_msg("%s", vq.broken);
        }
        if (!i) {
            virtqueue_stop(&vq);
        }
    }
    memset(counts, 0, sizeof(counts));
    count_ended();
    while (virtqueue_has_work(&vq)) {
        n = virtqueue_pop(&vq, got, G_N_ELEMENTS(got));
        if (n < 0) {
            fail_msg("%s", vq.broken);
        }
        for (int i = 0; i < n; i++) {
            count_chain(got[i], &last);
        }
    }
    for (unsigned i = 0; i < MAX_REQUESTS; i++) {
        if (counts[i] > 1) {
            fail_msg("request %u is there %u times", i, counts[i]);
        }
        total += counts[i];
        assert_true(!counts[i] || i + 1 == total);
    }
    assert_in_range(total, replica.shown, replica.intended);
    virtqueue_stop(&vq);
    guest_memory_clear(&memory);
}

static unsigned step_through(pid_t pid)
{
    static struct shared before;
    enum __ptrace_request go = PTRACE_CONT;
    unsigned states = 0;
    int status;

    memcpy(&before, shared, sizeof(before));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSTOPPED(status));
    for (;;) {
        assert_int_equal(ptrace(go, pid, NULL, NULL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status)) {
            assert_int_equal(WEXITSTATUS(status), 0);
            return states;
        }
        assert_true(WIFSTOPPED(status));
        if (WSTOPSIG(status) == SIGUSR1) {
            go = PTRACE_SINGLESTEP;
        } else if (WSTOPSIG(status) == SIGUSR2) {
            go = PTRACE_CONT;
        } else {
            assert_int_equal(WSTOPSIG(status), SIGTRAP);
        }
        if (memcmp(&before, shared, sizeof(before))) {
            memcpy(&before, shared, sizeof(before));
            memcpy(&replica, shared, sizeof(replica));
            check_what_a_kill_leaves();
            states++;
        }
    }
}

static void kill_anywhere(bool with_packed, const char *script)
{
    packed = with_packed;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    virtqueue_init(&vq, SIZE, sizeof(struct slot));
    next_avail = shared->last_used = format()->first;
    for (frees = 0; frees < SIZE; frees++) {
        free_ids[frees] = (frees * 5 + 3) % SIZE;
    }
    popped = 0;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (!pid) {
        child(script);
    }
    unsigned states = step_through(pid);

    print_message("%s: %u states\n", script, states);
    assert_true(states > 40);
    memcpy(&replica, shared, sizeof(replica));
    check_what_a_kill_leaves();
    virtqueue_destroy(&vq);
    inflight_destroy(&inflight);
    munmap(shared, sizeof(*shared));
}

/* Ends out of order, in batches, with a batch under way while others begin. */
#define OUT_OF_ORDER "aaap3e2e0srap1e0p0e0sraaaap4e3e1e1sre0sraap2e0e0sr"
/* Ends in the middle of a batch, of what is done again, and right away. */
#define RESTARTS             \
    "aaap3e0e1xp3e0sre0e0sr" \
    "aaap3e1xp3e2e0sxp1e0sraaap2xp2e0xaap2p2e3e0xp4e2e1sxp2e0e0srxaap2e1e0sr"

/* A batch ends in the next lap, where the last one has left a descriptor that
 * looks available to it. */
#define LAPS "aaaaap5e0e0e0e0e0sraap2e0e0sraaaap4e1e0e1e0sr"

static void a_split_ring_is_killed_anywhere(void **state)
{
    kill_anywhere(false, OUT_OF_ORDER);
    kill_anywhere(false, RESTARTS);
    kill_anywhere(false, LAPS);
}

static void a_packed_ring_is_killed_anywhere(void **state)
{
    kill_anywhere(true, OUT_OF_ORDER);
    kill_anywhere(true, RESTARTS);
    kill_anywhere(true, LAPS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_split_ring_is_killed_anywhere),
        cmocka_unit_test(a_packed_ring_is_killed_anywhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
