/*
 * A guest on a device on a disk in memory: each test is one coroutine on a loop
 * with simulated time.
 */
#ifndef VARVE_TESTS_GUEST_FIXTURE_H
#define VARVE_TESTS_GUEST_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "aio/loop.h"
#include "hw/guest.h"
#include "hw/runstate.h"
#include "hw/virtio_blk.h"
#include "guest_disk.h"

#define KIB        INT64_C(1024)
#define DISK_BYTES (8 * 1024 * KIB)

struct fixture {
    struct loop *loop;
    struct virtio_blk_props props;
    struct virtio_blk *dev;
    struct guest *g;
    void (*co_test)(struct fixture *f);
    bool yield;
};

static inline void co_set_up(struct fixture *f)
{
    g_autoptr(GError) error = NULL;

    f->props.id = "vd0";
    f->props.serial = "varve-0001";
    f->dev = co_virtio_blk_new(&f->props, disk.backend, &error);
    assert_non_null(f->dev);
    co_vm_start();
    f->g = co_virtio_blk_guest(f->dev, &error);
    assert_non_null(f->g);
    assert_int_equal(guest_disk_bytes(f->g), DISK_BYTES);
}

static inline void co_body(void *opaque)
{
    struct fixture *f = opaque;

    co_guest_disk_new(DISK_BYTES, false);
    co_set_up(f);
    f->co_test(f);
    guest_disk_open_gate();
    if (!vm_running()) {
        guest_disk_fail(0, 0, 0);
    }
    co_virtio_blk_free(f->dev);
    co_guest_disk_free();
}

static inline void run_once(struct virtio_blk_props props,
                            void (*co_test)(struct fixture *f))
{
    struct fixture f = {.props = props, .co_test = co_test};

    f.loop = loop_new("test", LOOP_CLOCK_SIMULATED);
    loop_run_co(f.loop, co_body, &f);
    while (loop_pass(f.loop, false)) {
    }
    loop_free(f.loop);
}

/* With both ring formats. */
static inline void run_with(struct virtio_blk_props props,
                            void (*co_test)(struct fixture *f))
{
    run_once(props, co_test);
    props.packed = true;
    run_once(props, co_test);
}

static inline void run(void (*co_test)(struct fixture *f))
{
    run_with((struct virtio_blk_props){0}, co_test);
}

static inline struct guest_result co_do(struct fixture *f,
                                        struct guest_request r)
{
    struct guest_result result;

    co_guest_request(f->g, &r, &result);
    return result;
}

#define DO(...) co_do(f, (struct guest_request){__VA_ARGS__})

static inline struct guest_workload_stats stats_of(struct fixture *f)
{
    struct guest_workload_stats s;

    guest_workload_query(f->g, &s);
    return s;
}

#endif
