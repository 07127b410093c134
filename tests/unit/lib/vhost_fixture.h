/*
 * A vhost-user server on a disk in memory, and a front-end that is connected to
 * it, for each test: one thread, one loop with simulated time.
 */
#ifndef VARVE_TESTS_VHOST_FIXTURE_H
#define VARVE_TESTS_VHOST_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib.h>
#include <glib/gstdio.h>

#include "aio/loop.h"
#include "hw/runstate.h"
#include "hw/virtio-blk/vhost_user_internal.h"
#include "guest_disk.h"
#include "vhost_client.h"

#define DISK_BYTES (1 << 20)
#define QUEUE      16

static struct loop *loop;
static struct vhost_user_server *server;
static struct vhost_client client;
static char *directory, *path;
static GString *logged;
static struct virtio_blk_props props;
static uint8_t buf[8192], back[8192];

static inline void pass(void *opaque)
{
    loop_pass(loop, false);
}

static inline void settle(void)
{
    for (unsigned i = 0; i < 20; i++) {
        loop_pass(loop, false);
    }
}

static inline GLogWriterOutput on_log(GLogLevelFlags level,
                                      const GLogField *fields, gsize n,
                                      gpointer opaque)
{
    for (gsize i = 0; i < n; i++) {
        if (!strcmp(fields[i].key, "MESSAGE") && level & G_LOG_LEVEL_WARNING) {
            g_string_append_printf(logged, "%s\n",
                                   (const char *)fields[i].value);
        }
    }
    return G_LOG_WRITER_HANDLED;
}

/* ---- before and after each test ---- */

static inline void co_begin(void *opaque)
{
    g_autoptr(GError) error = NULL;
    struct vhost_user_address address = {.path = path, .fd = -1};

    co_guest_disk_new(DISK_BYTES, props.max_discard_sectors == 1);
    server =
        co_vhost_user_server_new("e0", &props, disk.backend, &address, &error);
    assert_non_null(server);
    co_vm_start();
}

static inline void co_finish(void *opaque)
{
    guest_disk_open_gate();
    co_vhost_user_server_free(server);
    co_guest_disk_free();
}

static inline int begin_with(struct virtio_blk_props p)
{
    directory = g_dir_make_tmp("vhost-XXXXXX", NULL);
    path = g_build_filename(directory, "socket", NULL);
    logged = g_string_new(NULL);
    loop = loop_new("test", LOOP_CLOCK_SIMULATED);
    props = p;
    loop_run_co(loop, co_begin, NULL);
    loop_bind(loop);
    for (unsigned i = 0; i < sizeof(buf); i++) {
        buf[i] = i * 7 + i / 256;
    }
    return !vhost_client_connect(&client, path, pass, NULL);
}

static inline int begin(void **state)
{
    return begin_with((struct virtio_blk_props){
        .num_queues = 2, .queue_size = QUEUE, .serial = "varve-7"});
}

static inline int begin_packed(void **state)
{
    return begin_with((struct virtio_blk_props){.num_queues = 2,
                                                .queue_size = QUEUE,
                                                .serial = "varve-7",
                                                .packed = true});
}

static inline int begin_read_only(void **state)
{
    return begin_with((struct virtio_blk_props){.queue_size = QUEUE,
                                                .max_discard_sectors = 1});
}

static inline int finish(void **state)
{
    loop_bind(NULL);
    loop_run_co(loop, co_finish, NULL);
    vhost_client_close(&client);
    while (loop_pass(loop, false)) {
    }
    loop_free(loop);
    assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_rmdir(directory);
    g_free(directory);
    g_free(path);
    g_string_free(logged, TRUE);
    return 0;
}

static inline int io(unsigned queue, uint32_t type, uint64_t sector, void *data,
                     uint32_t bytes)
{
    return vhost_client_io(&client, queue, type, sector, data, bytes);
}

static inline void check_works(void)
{
    assert_int_equal(io(0, VIRTIO_BLK_T_OUT, 8, buf, sizeof(buf)), 0);
    memset(back, 0, sizeof(back));
    assert_int_equal(io(0, VIRTIO_BLK_T_IN, 8, back, sizeof(back)), 0);
    assert_memory_equal(buf, back, sizeof(buf));
    assert_memory_equal(disk.data + 4096, buf, sizeof(buf));
}

static inline void reconnect(void)
{
    vhost_client_close(&client);
    assert_true(vhost_client_connect(&client, path, pass, NULL));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, finish)
#define PACKED(f)                                 \
    {                                             \
#f ", packed", f, begin_packed, finish, 0 \
    }
/* With split rings, and with packed ones. */
#define BOTH(f) CASE(f), PACKED(f)

#endif
