/*
 * The file driver: zeroes, discard, status, length, copies, creation, locks.
 */
#include "tests/unit/lib/file_syscalls.h"

#include "block/create.h"
#include "block/drivers/file/file.h"
#include "block/graph.h"

static const char **const both_dirs[] = {(const char **)&on_disk,
                                         (const char **)&in_memory};

/* ---- zeroes ---- */

static void co_zero_in(const char *dir, unsigned flags)
{
    g_autofree char *path = new_file(dir, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s,discard=unmap", path);

    assert_int_equal(co_node_flush(n), 0);
    assert_int_equal(co_node_pwrite_zeroes(n, 64 * KIB, 128 * KIB, flags), 0);
    assert_bytes(path, 0, 64 * KIB, 5);
    assert_bytes(path, 64 * KIB, 128 * KIB, 0);
    assert_bytes(path, 192 * KIB, MIB - 192 * KIB, 5);
    if (flags & REQ_MAY_UNMAP) {
        assert_in_range(allocated(path), MIB - 128 * KIB,
                        MIB - 128 * KIB + 32 * KIB);
    } else {
        assert_in_range(allocated(path), MIB, MIB + 32 * KIB);
    }
    /* To odd places, and past the end. */
    assert_int_equal(co_node_pwrite_zeroes(n, 300001, 12345, flags), 0);
    assert_bytes(path, 300000, 1, 5);
    assert_bytes(path, 300001, 12345, 0);
    assert_bytes(path, 300001 + 12345, 1, 5);
    assert_int_equal(co_node_pwrite_zeroes(n, MIB - 1000, 100 * KIB, flags), 0);
    assert_int_equal(size_on_disk(path), MIB - 1000 + 100 * KIB);
    assert_int_equal(n->length, MIB - 1000 + 100 * KIB);
    assert_bytes(path, MIB - 1001, 1, 5);
    assert_bytes(path, MIB - 1000, 100 * KIB, 0);
    /* Wholly beyond it. */
    assert_int_equal(co_node_pwrite_zeroes(n, 2 * MIB, 5000, flags), 0);
    assert_int_equal(size_on_disk(path), 2 * MIB + 5000);
    co_node_unref(n);
}

static void co_zeroes_with_and_without_unmapping(void *opaque)
{
    for (int i = 0; i < 2; i++) {
        co_zero_in(*both_dirs[i], 0);
        co_zero_in(*both_dirs[i], REQ_MAY_UNMAP);
        assert_true(sys.punches && sys.allocations);
    }
}

static void co_stable_zeroes(void *opaque)
{
    g_autofree char *path = new_file(on_disk, MIB, 5);
    struct node *n =
        co_node("driver=file,filename=%s,discard=unmap,aio=threads", path);

    assert_int_equal(co_node_pwrite_zeroes(n, 0, 4096, 0), 0);
    assert_int_equal(sys.syncs, 0);
    assert_int_equal(co_node_pwrite_zeroes(n, 0, 4096, REQ_FUA), 0);
    assert_int_equal(sys.syncs, 1);
    assert_int_equal(co_node_pwrite_zeroes(n, 0, 4096, REQ_FUA | REQ_MAY_UNMAP),
                     0);
    assert_int_equal(sys.syncs, 2);
    sys.sync_errno = EIO;
    assert_int_equal(co_node_pwrite_zeroes(n, 0, 4096, REQ_FUA), -EIO);
    co_node_unref(n);
}

static void co_file_systems_that_cannot(void *opaque)
{
    g_autofree char *path = new_file(on_disk, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s,discard=unmap", path);
    unsigned flags = REQ_MAY_UNMAP;

    sys.zero_range_errno = sys.punch_errno = EOPNOTSUPP;
    sys.allocate_errno = ENOSYS;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(co_node_pwrite_zeroes(n, i * 4096, 4096, flags), 0);
        assert_int_equal(co_node_pdiscard(n, MIB / 2, 4096), 0);
    }
    assert_bytes(path, 0, 3 * 4096, 0);
    assert_bytes(path, 3 * 4096, MIB - 3 * 4096, 5);
    /* For holes, for zeroes anew, and for discard. */
    assert_int_equal(sys.punches, 3);
    assert_int_equal(sys.zero_ranges, 1);
    assert_int_equal(co_node_pwrite_zeroes(n, 0, 4096, flags | REQ_NO_FALLBACK),
                     -ENOTSUP);
    co_node_unref(n);
}

static void co_other_errors_arrive(void *opaque)
{
    g_autofree char *path = new_file(on_disk, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s,discard=unmap", path);

    sys.zero_range_errno = ENOSPC;
    assert_int_equal(co_node_pwrite_zeroes(n, 0, 4096, 0), -ENOSPC);
    sys.punch_errno = EIO;
    assert_int_equal(co_node_pwrite_zeroes(n, 0, 4096, REQ_MAY_UNMAP), -EIO);
    assert_int_equal(co_node_pdiscard(n, 0, 4096), -EIO);
    sys.zero_range_errno = sys.punch_errno = 0;
    /* They were no refusals for good. */
    assert_int_equal(co_node_pwrite_zeroes(n, 0, 4096, 0), 0);
    assert_int_equal(co_node_pwrite_zeroes(n, 0, 4096, REQ_MAY_UNMAP), 0);
    assert_int_equal(co_node_pdiscard(n, 0, 4096), 0);
    assert_bytes(path, 0, 4096, 0);
    co_node_unref(n);
}

/* ---- growing from several sides ---- */

enum { GROWERS = 64, PIECE = 12000 };

struct grower {
    struct node *node;
    unsigned i;
    unsigned *left;
    int ret;
};

static bool is_zeroes(unsigned i)
{
    return i % 3 == 1;
}

static void co_grow(void *opaque)
{
    struct grower *g = opaque;
    int64_t offset = (int64_t)g->i * PIECE;

    g->ret = is_zeroes(g->i)
                 ? co_node_pwrite_zeroes(g->node, offset, PIECE, REQ_MAY_UNMAP)
                 : co_fill(g->node, offset, PIECE, 'a' + g->i % 26, 0);
    --*g->left;
}

static void co_grow_with(const char *options, bool backwards)
{
    g_autofree char *path = new_file(on_disk, 0, 0);
    struct node *n =
        co_node("driver=file,filename=%s,discard=unmap,%s", path, options);
    struct grower growers[GROWERS];
    unsigned left = GROWERS;

    for (unsigned i = 0; i < GROWERS; i++) {
        growers[i] = (struct grower){
            n, backwards ? GROWERS - 1 - i : (i * 29) % GROWERS, &left, 1};
        co_start(co_grow, &growers[i]);
    }
    while (left) {
        co_pause();
    }
    assert_int_equal(n->length, GROWERS * PIECE);
    assert_int_equal(size_on_disk(path), GROWERS * PIECE);
    for (unsigned i = 0; i < GROWERS; i++) {
        assert_int_equal(growers[i].ret, 0);
        assert_bytes(path, (int64_t)i * PIECE, PIECE,
                     is_zeroes(i) ? 0 : 'a' + (int)i % 26);
    }
    co_node_unref(n);
}

static void co_zeroes_beside_appending_writes_lose_nothing(void *opaque)
{
    for (int i = 0; i < 4; i++) {
        co_grow_with("", i % 2);
        co_grow_with("aio=threads", i % 2);
        co_grow_with("aio=io_uring", i % 2);
    }
}

static void co_zero_past_the_end(void *opaque)
{
    struct grower *g = opaque;

    g->ret = co_node_pwrite_zeroes(g->node, 0, 8192, REQ_MAY_UNMAP);
    --*g->left;
}

static void co_an_append_between_looking_and_growing(void *opaque)
{
    g_autofree char *path = new_file(on_disk, 0, 0);
    struct node *n = co_node("driver=file,filename=%s,discard=unmap", path);
    unsigned left = 1;
    struct grower g = {n, 0, &left, 1};
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    sys.fstat_pipe = fds[0];
    co_start(co_zero_past_the_end, &g);
    while (left && !sys.fstat_waits) {
        co_pause();
    }
    assert_int_equal(g.ret, 1); /* as long as it goes on */
    assert_int_equal(co_fill(n, 8192, 4096, 7, 0), 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    while (left) {
        co_pause();
    }
    sys.fstat_pipe = 0;
    assert_int_equal(g.ret, 0);
    assert_int_equal(size_on_disk(path), 12288);
    assert_int_equal(n->length, 12288);
    assert_bytes(path, 0, 8192, 0);
    assert_bytes(path, 8192, 4096, 7);
    close(fds[0]);
    close(fds[1]);
    co_node_unref(n);
}

/* ---- discard and status ---- */

static unsigned co_status(struct node *n, int64_t offset, int64_t bytes,
                          int64_t *run)
{
    struct block_status st;

    assert_int_equal(co_node_block_status(n, true, offset, bytes, &st), 0);
    assert_true(st.flags & BLOCK_OFFSET_VALID);
    assert_int_equal(st.map, offset);
    assert_ptr_equal(st.file, n);
    *run = st.bytes;
    return st.flags & (BLOCK_DATA | BLOCK_ZERO);
}

static void co_map(const char *dir)
{
    g_autofree char *path = new_file(dir, 0, 0);
    struct node *n = co_node("driver=file,filename=%s,discard=unmap", path);
    int64_t run;

    assert_true(co_node_truncate(n, MIB, true, PREALLOC_MODE_OFF, 0, NULL));
    assert_int_equal(co_status(n, 0, MIB, &run), BLOCK_ZERO);
    assert_int_equal(run, MIB);
    assert_int_equal(co_fill(n, 64 * KIB, 64 * KIB, 1, 0), 0);
    assert_int_equal(co_status(n, 0, MIB, &run), BLOCK_ZERO);
    assert_int_equal(run, 64 * KIB);
    assert_int_equal(co_status(n, 64 * KIB, MIB / 2, &run), BLOCK_DATA);
    assert_int_equal(run, 64 * KIB);
    /* Known now. */
    sys.seeks = 0;
    for (int64_t i = 64 * KIB; i < 128 * KIB; i += 4096) {
        assert_int_equal(co_status(n, i, 4096, &run), BLOCK_DATA);
        assert_int_equal(run, 4096);
    }
    assert_int_equal(sys.seeks, 0);
    assert_int_equal(co_status(n, 128 * KIB, 4096, &run), BLOCK_ZERO);
    /* What takes the data away is seen at once. */
    assert_int_equal(co_node_pdiscard(n, 64 * KIB, 8 * KIB), 0);
    assert_int_equal(co_status(n, 64 * KIB, MIB / 2, &run), BLOCK_ZERO);
    assert_int_equal(run, 8 * KIB);
    assert_bytes(path, 64 * KIB, 8 * KIB, 0);
    assert_int_equal(co_status(n, 72 * KIB, MIB / 2, &run), BLOCK_DATA);
    assert_int_equal(co_node_pwrite_zeroes(n, 72 * KIB, 8 * KIB, REQ_MAY_UNMAP),
                     0);
    assert_int_equal(co_status(n, 72 * KIB, MIB / 2, &run), BLOCK_ZERO);
    assert_int_equal(run, 8 * KIB);
    assert_int_equal(co_status(n, 80 * KIB, 4096, &run), BLOCK_DATA);
    assert_true(
        co_node_truncate(n, 80 * KIB, true, PREALLOC_MODE_OFF, 0, NULL));
    assert_true(co_node_truncate(n, MIB, true, PREALLOC_MODE_OFF, 0, NULL));
    assert_int_equal(co_status(n, 80 * KIB, 4096, &run), BLOCK_ZERO);
    /* And what brings data. */
    assert_int_equal(co_fill(n, 80 * KIB, 4096, 1, 0), 0);
    assert_int_equal(co_status(n, 80 * KIB, 4096, &run), BLOCK_DATA);
    co_node_unref(n);
}

static void co_status_follows_what_happens(void *opaque)
{
    co_map(on_disk);
    co_map(in_memory);
}

static void co_fast_and_failing_status(void *opaque)
{
    g_autofree char *path = new_file(on_disk, 0, 0);
    struct node *n = co_node("driver=file,filename=%s", path);
    struct block_status st;
    int64_t run;

    assert_true(co_node_truncate(n, MIB, true, PREALLOC_MODE_OFF, 0, NULL));
    assert_int_equal(co_node_block_status(n, false, 0, MIB, &st), 0);
    assert_true(st.flags & BLOCK_DATA);
    assert_int_equal(sys.seeks, 0);
    sys.seek_errno = EIO;
    assert_int_equal(co_status(n, 4096, 8192, &run), BLOCK_DATA);
    assert_int_equal(run, 8192);
    sys.seek_errno = 0;
    assert_int_equal(co_status(n, 4096, 8192, &run), BLOCK_ZERO);
    co_node_unref(n);
}

struct question {
    struct node *node;
    unsigned flags;
    bool done;
};

static void co_ask(void *opaque)
{
    struct question *q = opaque;
    int64_t run;

    q->flags = co_status(q->node, 0, MIB, &run);
    q->done = true;
}

static void co_an_answer_that_was_overtaken(void *opaque)
{
    g_autofree char *path = new_file(on_disk, MIB, 1);
    struct node *n = co_node("driver=file,filename=%s,discard=unmap", path);
    struct question q = {.node = n};
    int64_t run;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    sys.seek_pipe = fds[0];
    co_start(co_ask, &q);
    while (!sys.seek_waits) {
        co_pause();
    }
    /* The worker has its answer, and is held up. */
    assert_int_equal(co_node_pdiscard(n, 0, MIB), 0);
    assert_false(q.done);
    assert_int_equal(write(fds[1], "x", 1), 1);
    while (!q.done) {
        co_pause();
    }
    sys.seek_pipe = 0;
    assert_int_equal(q.flags, BLOCK_DATA);
    assert_int_equal(co_status(n, 0, MIB, &run), BLOCK_ZERO);
    close(fds[0]);
    close(fds[1]);
    co_node_unref(n);
}

/* ---- length ---- */

static bool co_resize(struct node *n, int64_t size, enum prealloc_mode mode,
                      GError **error)
{
    return co_node_truncate(n, size, true, mode, 0, error);
}

static void co_preallocate(const char *dir, const char *options)
{
    g_autofree char *path = new_file(dir, 100 * KIB + 7, 5);
    GError *error = NULL;
    struct node *n = co_node("driver=file,filename=%s,%s", path, options);
    int64_t size = 100 * KIB + 7;

    for (int mode = PREALLOC_MODE_OFF; mode <= PREALLOC_MODE_FULL; mode++) {
        if (mode == PREALLOC_MODE_METADATA) {
            assert_false(co_resize(n, size + 1, mode, &error));
            assert_error(&error, "Unsupported preallocation mode: metadata");
            continue;
        }
        int64_t more = size + 100 * KIB + 1;
        int64_t before = allocated(path);
        assert_true(co_resize(n, more, mode, NULL));
        assert_int_equal(n->length, more);
        assert_int_equal(size_on_disk(path), more);
        assert_bytes(path, 0, 100 * KIB + 7, 5);
        assert_bytes(path, 100 * KIB + 7, more - 100 * KIB - 7, 0);
        if (mode != PREALLOC_MODE_OFF) {
            assert_true(allocated(path) >= before + 96 * KIB);
        }
        size = more;
    }
    assert_false(co_resize(n, 4096, PREALLOC_MODE_FULL, &error));
    assert_error(&error, "Cannot use preallocation for shrinking files");
    assert_true(co_resize(n, 4096, PREALLOC_MODE_OFF, NULL));
    assert_int_equal(size_on_disk(path), 4096);
    co_node_unref(n);
}

static void co_lengths_with_preallocation(void *opaque)
{
    co_preallocate(on_disk, "");
    co_preallocate(on_disk, "cache.direct=on");
    co_preallocate(in_memory, "");
}

static void co_no_space_to_preallocate(void *opaque)
{
    if (!own_mounts()) {
        print_message("no mounts: not tried\n");
        return;
    }
    GError *error = NULL;
    g_autofree char *dir = small_disk("size=1m", 0);
    g_autofree char *path = new_file(dir, 4096, 5);
    struct node *n = co_node("driver=file,filename=%s", path);

    assert_false(co_resize(n, 8 * MIB, PREALLOC_MODE_FALLOC, &error));
    assert_error(&error, "Could not preallocate new data: No space left on "
                         "device");
    assert_int_equal(size_on_disk(path), 4096);
    assert_false(co_resize(n, 8 * MIB, PREALLOC_MODE_FULL, &error));
    assert_error(&error, "Could not write zeros for preallocation: No space "
                         "left on device");
    assert_int_equal(size_on_disk(path), 4096);
    assert_int_equal(n->length, 4096);
    assert_int_equal(co_node_pwrite_zeroes(n, 0, 8 * MIB, 0), -ENOSPC);
    co_node_unref(n);
    umount2(dir, MNT_DETACH);
}

/* ---- copies ---- */

static void co_copies_inside_the_storage(void *opaque)
{
    g_autofree char *a = new_file(on_disk, MIB, 5);
    g_autofree char *b = new_file(on_disk, MIB, 6);
    struct node *from = co_node("driver=file,filename=%s", a);
    struct node *to = co_node("driver=file,filename=%s", b);

    assert_int_equal(co_node_copy_range(from, 4096, to, 10000, 70000, 0), 0);
    assert_bytes(b, 0, 10000, 6);
    assert_bytes(b, 10000, 70000, 5);
    assert_bytes(b, 80000, MIB - 80000, 6);
    /* Past the end of the target: it grows. */
    assert_int_equal(co_node_copy_range(from, 0, to, MIB, 4096, 0), 0);
    assert_int_equal(to->length, MIB + 4096);
    assert_bytes(b, MIB, 4096, 5);
    /* Somebody cut the source: the caller is to read, this time. */
    assert_int_equal(truncate(a, MIB / 2), 0);
    assert_int_equal(co_node_copy_range(from, MIB / 2 - 4096, to, 0, 8192, 0),
                     -ENOTSUP);
    assert_int_equal(co_node_copy_range(from, 0, to, 0, 4096, 0), 0);
    sys.copy_errno = ENOSPC;
    assert_int_equal(co_node_copy_range(from, 0, to, 0, 4096, 0), -ENOSPC);
    sys.copy_errno = EXDEV;
    unsigned copies = sys.copies;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(co_node_copy_range(from, 0, to, 0, 4096, 0), -ENOTSUP);
    }
    assert_int_equal(sys.copies, copies + 1);
    co_node_unref(from);
    co_node_unref(to);
}

/* ---- creation ---- */

static bool co_create_raw(const char *path, int64_t size, const char *extra,
                          GError **error)
{
    struct create_params params = {.size = size, .extra = extra};

    return co_image_create(path, "raw", &params, error);
}

static void co_create_files(void *opaque)
{
    GError *error = NULL;
    g_autofree char *path = g_strdup_printf("%s/created", on_disk);

    assert_true(co_create_raw(path, 300000, NULL, NULL));
    assert_int_equal(size_on_disk(path), 586 * 512); /* whole sectors */
    make_file(path, MIB, 5);
    assert_true(co_create_raw(path, 8192, NULL, NULL));
    assert_int_equal(size_on_disk(path), 8192);
    assert_bytes(path, 0, 8192, 0);
    assert_true(
        co_create_raw(path, MIB, "preallocation=falloc,nocow=off", NULL));
    assert_true(allocated(path) >= MIB);
    assert_true(co_create_raw(path, MIB, "preallocation=full,nocow=on", NULL));
    assert_true(allocated(path) >= MIB);
    assert_false(co_create_raw(path, MIB, "preallocation=metadata", &error));
    assert_error(&error, "Unsupported preallocation mode: metadata");
    assert_false(co_create_raw(path, MIB, "preallocation=some", &error));
    assert_error(&error, "invalid parameter value: some");
    assert_false(co_create_raw(path, MIB, "nocow=some", &error));
    assert_error(&error, "Parameter 'nocow' expects 'on' or 'off'");
    assert_false(co_create_raw(path, MIB, "some=1", &error));
    assert_error(&error, "Invalid parameter 'some'");
    assert_false(co_create_raw("/nosuch/x", MIB, NULL, &error));
    assert_error(&error,
                 "Could not create '/nosuch/x': No such file or directory");
    g_autofree char *with_protocol = g_strdup_printf("file:%s", path);
    assert_true(co_create_raw(with_protocol, 4096, NULL, NULL));
    assert_int_equal(size_on_disk(path), 4096);
    assert_false(co_create_raw("null-co://", 4096, NULL, &error));
    assert_error(&error, "Protocol driver 'null-co' does not support image "
                         "creation");
}

/* ---- locks ---- */

static bool lock(struct file_state *s, const char *path, unsigned perm,
                 unsigned shared, GError **error)
{
    bool ok = file_lock_prepare(s, path, perm, shared, error);
    if (ok) {
        file_lock_commit(s);
    }
    return ok;
}

static void co_an_image_in_use_is_not_created_anew(void *opaque)
{
    GError *error = NULL;
    g_autofree char *path = new_file(on_disk, 8192, 5);
    struct file_state user = {.lock_fd = -1};
    int fd = open(path, O_RDWR);

    assert_true(file_lock_open(&user, fd, path, NULL));
    assert_true(lock(&user, path, PERM_WRITE, PERM_ALL & ~PERM_WRITE, NULL));
    assert_false(co_create_raw(path, 4096, NULL, &error));
    g_autofree char *expected =
        g_strdup_printf("Failed to get \"write\" lock\n"
                        "Is another process using the image [%s]?",
                        path);
    assert_error(&error, expected);
    assert_bytes(path, 0, 8192, 5);
    file_lock_close(&user);
    assert_true(co_create_raw(path, 4096, NULL, NULL));
    close(fd);
}

/* Every pair of users: the second gets in if neither minds the other. */
static void co_any_two_users(void *opaque)
{
    g_autofree char *path = new_file(on_disk, 4096, 5);
    struct file_state a = {.lock_fd = -1}, b = {.lock_fd = -1};
    int fd = open(path, O_RDWR);

    assert_true(file_lock_open(&a, fd, path, NULL));
    assert_true(file_lock_open(&b, fd, path, NULL));
    for (unsigned i = 0; i < 256; i++) {
        unsigned perm_a = i & 15, shared_a = i >> 4;
        assert_true(lock(&a, path, perm_a, shared_a, NULL));
        for (unsigned j = i % 7; j < 256; j += 7) {
            GError *error = NULL;
            unsigned perm_b = j & 15, shared_b = j >> 4;
            bool fits = !(perm_b & ~shared_a) && !(perm_a & ~shared_b);
            assert_int_equal(lock(&b, path, perm_b, shared_b, &error), fits);
            assert_int_equal(!error, fits);
            g_clear_error(&error);
            if (!fits) {
                /* Nothing stays behind. */
                assert_true(lock(&a, path, perm_a & ~perm_b, 0, NULL));
                assert_true(lock(&a, path, PERM_ALL, shared_a, NULL));
                assert_true(lock(&a, path, perm_a, shared_a, NULL));
            }
            assert_true(lock(&b, path, 0, PERM_ALL, NULL));
        }
    }
    file_lock_close(&a);
    file_lock_close(&b);
    close(fd);
}

static void co_a_refused_change_keeps_what_was_held(void *opaque)
{
    g_autofree char *path = new_file(on_disk, 4096, 5);
    struct file_state a = {.lock_fd = -1}, b = {.lock_fd = -1};
    int fd = open(path, O_RDWR);

    assert_true(file_lock_open(&a, fd, path, NULL));
    assert_true(file_lock_open(&b, fd, path, NULL));
    assert_true(lock(&a, path, PERM_WRITE, PERM_ALL & ~PERM_RESIZE, NULL));
    assert_true(lock(&b, path, PERM_CONSISTENT_READ, PERM_ALL, NULL));
    assert_false(lock(&b, path, PERM_RESIZE, PERM_ALL, NULL));
    /* Its first lock is still there, and its second is not. */
    assert_false(lock(&a, path, 0, PERM_ALL & ~PERM_CONSISTENT_READ, NULL));
    assert_true(lock(&a, path, 0, PERM_ALL & ~PERM_RESIZE, NULL));
    /* Prepared and given up. */
    assert_true(file_lock_prepare(&b, path, PERM_WRITE, PERM_ALL, NULL));
    file_lock_abort(&b);
    assert_true(lock(&a, path, 0, PERM_ALL & ~PERM_WRITE, NULL));
    file_lock_close(&a);
    file_lock_close(&b);
    close(fd);
}

static void co_another_file_of_that_name(void *opaque)
{
    GError *error = NULL;
    g_autofree char *path = new_file(on_disk, 4096, 5);
    g_autofree char *other = new_file(on_disk, 4096, 6);
    struct file_state s = {.lock_fd = -1};
    int fd = open(path, O_RDWR);

    assert_int_equal(rename(other, path), 0);
    assert_false(file_lock_open(&s, fd, path, &error));
    g_autofree char *expected =
        g_strdup_printf("'%s' was replaced while it was opened", path);
    assert_error(&error, expected);
    assert_int_equal(s.lock_fd, -1);
    close(fd);
}

FILE_TEST(zeroes_with_and_without_unmapping)
FILE_TEST(stable_zeroes)
FILE_TEST(file_systems_that_cannot)
FILE_TEST(other_errors_arrive)
FILE_TEST(zeroes_beside_appending_writes_lose_nothing)
FILE_TEST(an_append_between_looking_and_growing)
FILE_TEST(status_follows_what_happens)
FILE_TEST(fast_and_failing_status)
FILE_TEST(an_answer_that_was_overtaken)
FILE_TEST(lengths_with_preallocation)
FILE_TEST(no_space_to_preallocate)
FILE_TEST(copies_inside_the_storage)
FILE_TEST(create_files)
FILE_TEST(an_image_in_use_is_not_created_anew)
FILE_TEST(any_two_users)
FILE_TEST(a_refused_change_keeps_what_was_held)
FILE_TEST(another_file_of_that_name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* It may make namespaces: before there are threads. */
        cmocka_unit_test(no_space_to_preallocate),
        cmocka_unit_test(an_append_between_looking_and_growing),
        cmocka_unit_test(zeroes_with_and_without_unmapping),
        cmocka_unit_test(stable_zeroes),
        cmocka_unit_test(file_systems_that_cannot),
        cmocka_unit_test(other_errors_arrive),
        cmocka_unit_test(zeroes_beside_appending_writes_lose_nothing),
        cmocka_unit_test(status_follows_what_happens),
        cmocka_unit_test(fast_and_failing_status),
        cmocka_unit_test(an_answer_that_was_overtaken),
        cmocka_unit_test(lengths_with_preallocation),
        cmocka_unit_test(copies_inside_the_storage),
        cmocka_unit_test(create_files),
        cmocka_unit_test(an_image_in_use_is_not_created_anew),
        cmocka_unit_test(any_two_users),
        cmocka_unit_test(a_refused_change_keeps_what_was_held),
        cmocka_unit_test(another_file_of_that_name),
    };
    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}
