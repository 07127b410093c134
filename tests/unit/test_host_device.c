/*
 * The host_device driver, on loop devices over a file. Without the rights to
 * make one, character devices have to do.
 */
#include "tests/unit/lib/file_syscalls.h"

#include <linux/loop.h>
#include <sys/ioctl.h>

#include "block/create.h"
#include "block/graph.h"

enum { LENGTH = 8 * 1024 * 1024 };

struct device {
    char *backing, *path;
    int fd; /* the last one to be closed takes the device away */
};

/* NULL in d->path if that is not possible here. */
static void device_open(struct device *d, const char *dir, unsigned block)
{
    *d = (struct device){.backing = new_file(dir, LENGTH, 5), .fd = -1};
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int file = open(d->backing, O_RDWR | O_CLOEXEC);

    for (int i = 0; control >= 0 && i < 10 && !d->path; i++) {
        int index = ioctl(control, LOOP_CTL_GET_FREE);
        g_autofree char *path = g_strdup_printf("/dev/loop%d", index);
        struct loop_config config = {
            .fd = (unsigned)file,
            .block_size = block,
            .info.lo_flags = LO_FLAGS_AUTOCLEAR,
        };
        d->fd = index < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
        if (d->fd >= 0 && ioctl(d->fd, LOOP_CONFIGURE, &config) == 0) {
            d->path = g_steal_pointer(&path);
        } else if (d->fd >= 0) {
            /* Somebody else was faster. */
            close(d->fd);
            d->fd = -1;
        }
    }
    close(control);
    close(file);
    if (!d->path) {
        print_message("no loop device: not tried\n");
    }
}

static void device_close(struct device *d)
{
    if (d->fd >= 0) {
        close(d->fd);
    }
    g_remove(d->backing);
    g_free(d->backing);
    g_free(d->path);
}

/* Reads what the file below has, past the page cache of the device. */
static void assert_below(struct device *d, int64_t offset, int64_t bytes,
                         int byte)
{
    assert_int_equal(fsync(d->fd), 0);
    assert_bytes(d->backing, offset, bytes, byte);
}

static void co_requests_with(struct device *d, const char *options,
                             int64_t block)
{
    char buf[512];
    struct node *n = co_node("driver=host_device,filename=%s,discard=unmap,%s",
                             d->path, options);

    assert_int_equal(n->length, LENGTH);
    if (strstr(options, "direct")) {
        assert_int_equal(n->limits.request_alignment, block);
    }
    assert_int_equal(co_fill(n, MIB + 100, 1000, 1, 0), 0);
    assert_int_equal(co_fill(n, 2 * MIB, 300000, 2, REQ_FUA), 0);
    assert_int_equal(co_node_pread(n, MIB + 100, buf, 512, 0), 0);
    assert_int_equal(buf[0] + buf[511], 2);
    assert_below(d, MIB, 100, 5);
    assert_below(d, MIB + 100, 1000, 1);
    assert_below(d, MIB + 1100, 1000, 5);
    assert_below(d, 2 * MIB, 300000, 2);
    /* Zeroes where they are, with holes, and at odd places. */
    assert_int_equal(co_node_pwrite_zeroes(n, 2 * MIB, 64 * KIB, 0), 0);
    assert_int_equal(
        co_node_pwrite_zeroes(n, 3 * MIB, MIB, REQ_MAY_UNMAP | REQ_FUA), 0);
    assert_int_equal(
        co_node_pwrite_zeroes(n, 5 * MIB + 77, 20000, REQ_MAY_UNMAP), 0);
    assert_int_equal(co_node_flush(n), 0);
    assert_below(d, 2 * MIB, 64 * KIB, 0);
    assert_below(d, 2 * MIB + 64 * KIB, 1000, 2);
    assert_below(d, 3 * MIB, MIB, 0);
    assert_below(d, 5 * MIB, 77, 5);
    assert_below(d, 5 * MIB + 77, 20000, 0);
    assert_below(d, 5 * MIB + 20077, 1000, 5);
    /* A discard leaves unaligned ends alone. */
    int64_t before = allocated(d->backing);
    assert_int_equal(co_node_pdiscard(n, 6 * MIB + 100, MIB), 0);
    assert_true(allocated(d->backing) <= before - MIB + 2 * block + 8192);
    assert_below(d, 6 * MIB, 100, 5);
    assert_below(d, 7 * MIB + 4096, 1000, 5);
    co_node_unref(n);
}

static void co_every_request(void *opaque)
{
    static const char *const engines[] = {"", "aio=threads", "aio=io_uring",
                                          "cache.direct=on",
                                          "cache.direct=on,aio=io_uring"};
    for (size_t i = 0; i < G_N_ELEMENTS(engines); i++) {
        for (unsigned block = 512; block <= 4096; block *= 8) {
            struct device d;
            device_open(&d, on_disk, block);
            if (d.path) {
                co_requests_with(&d, engines[i], block);
            }
            device_close(&d);
        }
    }
}

static void co_the_length_stays(void *opaque)
{
    GError *error = NULL;
    struct block_status st;
    struct device d;

    device_open(&d, on_disk, 512);
    if (d.path) {
        struct node *n = co_node("driver=host_device,filename=%s", d.path);
        assert_false(
            co_node_truncate(n, MIB, true, PREALLOC_MODE_OFF, 0, &error));
        assert_error(&error, "Cannot resize device files");
        assert_false(co_node_truncate(n, 2 * LENGTH, false, PREALLOC_MODE_OFF,
                                      0, &error));
        assert_error(&error, "Cannot grow device files");
        assert_false(co_node_truncate(n, 2 * LENGTH, false, PREALLOC_MODE_FULL,
                                      0, &error));
        assert_error(&error, "Preallocation mode 'full' unsupported for this "
                             "non-regular file");
        assert_int_equal(n->length, LENGTH);
        assert_true(co_fill(n, LENGTH - 512, 1024, 1, 0) < 0);
        assert_true(co_fill(n, LENGTH, 512, 1, 0) < 0);
        assert_true(co_node_pwrite_zeroes(n, LENGTH, 512, 0) < 0);
        assert_int_equal(n->length, LENGTH);
        assert_int_equal(co_node_block_status(n, true, 0, LENGTH, &st), 0);
        assert_true(st.flags & BLOCK_DATA);
        assert_int_equal(st.bytes, LENGTH);
        assert_int_equal(sys.seeks, 0);
        co_node_unref(n);
    }
    device_close(&d);
}

static void co_images_on_a_device(void *opaque)
{
    GError *error = NULL;
    struct device d;
    struct create_params params = {.size = LENGTH};

    device_open(&d, on_disk, 512);
    if (d.path) {
        assert_true(co_image_create(d.path, "raw", &params, NULL));
        assert_below(&d, 0, 512, 0);
        assert_below(&d, 512, LENGTH - 512, 5);
        params.size = LENGTH + 512;
        assert_false(co_image_create(d.path, "raw", &params, &error));
        assert_error(&error, "Cannot grow device files");
        params =
            (struct create_params){.size = MIB, .extra = "preallocation=full"};
        assert_false(co_image_create(d.path, "raw", &params, &error));
        assert_error(&error, "Unsupported preallocation mode 'full'");
        params = (struct create_params){.size = 4 * MIB};
        assert_true(co_image_create(d.path, "qcow2", &params, NULL));
        struct node *n = co_node_open_filename(d.path, NULL, NULL, NULL);
        assert_non_null(n);
        assert_string_equal(n->driver->name, "qcow2");
        assert_string_equal(n->file->child->driver->name, "host_device");
        assert_int_equal(n->length, 4 * MIB);
        assert_int_equal(co_fill(n, MIB, MIB, 3, 0), 0);
        co_node_unref(n);
    }
    device_close(&d);
}

/* The device's own memory is small: the write is taken, and then lost. */
static void co_writes_that_the_cache_loses(void *opaque)
{
    if (!own_mounts()) {
        print_message("no mounts: not tried\n");
        return;
    }
    g_autofree char *dir = small_disk("size=9m", 0);
    struct device d;

    device_open(&d, dir, 512);
    if (d.path) {
        g_autofree char *filler = g_strdup_printf("%s/filler", dir);
        struct node *n =
            co_node("driver=host_device,filename=%s,discard=unmap", d.path);
        assert_int_equal(co_node_pwrite_zeroes(n, 0, LENGTH, REQ_MAY_UNMAP), 0);
        make_file(filler, 8 * MIB, 1);
        assert_int_equal(co_fill(n, 0, 4 * MIB, 1, 0), 0);
        int ret = co_node_flush(n);
        assert_true(ret < 0);
        g_remove(filler);
        assert_int_equal(co_fill(n, 0, 4096, 1, 0), 0);
        assert_int_equal(co_node_flush(n), ret);
        co_node_unref(n);
    }
    device_close(&d);
    umount2(dir, MNT_DETACH);
}

static void co_names_and_kinds(void *opaque)
{
    GError *error = NULL;
    g_autofree char *path = new_file(on_disk, 4096, 5);
    char buf[512];

    struct node *n = co_node_open_filename("/dev/zero", "raw", NULL, NULL);
    assert_non_null(n);
    assert_string_equal(n->file->child->driver->name, "host_device");
    assert_int_equal(n->length, 0);
    assert_int_equal(co_node_pread(n, 0, buf, 512, 0), 0);
    co_node_unref(n);
    assert_null(co_node_open_filename("file:/dev/zero", "raw", NULL, &error));
    assert_error(&error,
                 "'file' driver requires '/dev/zero' to be a regular file");
    assert_null(co_try_node(&error, "driver=host_device,filename=%s", path));
    g_autofree char *expected =
        g_strdup_printf("'host_device' driver requires '%s' to be either a "
                        "character or block device",
                        path);
    assert_error(&error, expected);
    n = co_node_open_filename(path, "raw", NULL, NULL);
    assert_string_equal(n->file->child->driver->name, "file");
    co_node_unref(n);
    n = co_node("driver=host_device,filename=/dev/full");
    assert_int_equal(co_fill(n, 0, 4096, 1, 0), -ENOSPC);
    co_node_unref(n);
}

FILE_TEST(every_request)
FILE_TEST(the_length_stays)
FILE_TEST(images_on_a_device)
FILE_TEST(writes_that_the_cache_loses)
FILE_TEST(names_and_kinds)

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* It may make namespaces: before there are threads. */
        cmocka_unit_test(writes_that_the_cache_loses),
        cmocka_unit_test(every_request),
        cmocka_unit_test(the_length_stays),
        cmocka_unit_test(images_on_a_device),
        cmocka_unit_test(names_and_kinds),
    };
    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}
