/*
 * The file driver with auto-read-only: the file is open for writing while
 * somebody writes.
 */
#include "tests/unit/lib/file_syscalls.h"

#include "block/backend.h"
#include "block/drivers/file/file.h"

static bool is_writable(struct node *n)
{
    const struct file_state *s = n->state;
    return (fcntl(s->fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

static struct backend *co_writer(struct node *n)
{
    GError *error = NULL;
    struct backend *b = co_backend_new(NULL, n, PERM_WRITE, PERM_ALL, &error);

    if (!b) {
        fail_msg("%s", error->message);
    }
    return b;
}

static void co_access_by_need(void *opaque)
{
    GError *error = NULL;
    g_autofree char *path = new_file(on_disk, 65536, 5);
    g_autofree char *moved = g_strdup_printf("%s.moved", path);
    struct node *n = co_node("driver=file,filename=%s,auto-read-only=on", path);

    assert_false(is_writable(n));
    for (int i = 0; i < 2; i++) {
        struct backend *b = co_writer(n), *c = co_writer(n);
        assert_true(is_writable(n));
        assert_int_equal(co_fill(n, 4096, 4096, 6 + i, 0), 0);
        co_backend_unref(b);
        assert_true(is_writable(n));
        /* What is not flushed stays with who would hear that it is lost. */
        co_backend_unref(c);
        assert_true(is_writable(n));
        b = co_writer(n);
        assert_int_equal(co_node_flush(n), 0);
        co_backend_unref(b);
        assert_false(is_writable(n));
        uint8_t byte;
        assert_int_equal(co_node_pread(n, 4096, &byte, 1, 0), 0);
        assert_int_equal(byte, 6 + i);
    }
    /* Another file under its name is another file. */
    assert_int_equal(rename(path, moved), 0);
    g_autofree char *other = new_file(on_disk, 65536, 7);
    assert_int_equal(rename(other, path), 0);
    assert_null(co_backend_new(NULL, n, PERM_WRITE, PERM_ALL, &error));
    g_autofree char *expected =
        g_strdup_printf("'%s' was replaced while it was open", path);
    assert_error(&error, expected);
    assert_int_equal(rename(moved, path), 0);
    co_backend_unref(co_writer(n));
    co_node_unref(n);
}

static void auto_read_only_opens_for_writing_when_a_writer_comes(void **state)
{
    in_loop(co_access_by_need);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_read_only_opens_for_writing_when_a_writer_comes),
    };
    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}
