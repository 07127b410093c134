/*
 * block/jobs/backup.c: each sync mode copies what it should, at one instant,
 * and stands still, ends and refuses as it should.
 */
#include "block/backup.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "aio/loop.h"
#include "block/block_copy.h"
#include "block/dirty_bitmap.h"
#include "block/request.h"
#include "lib/backup_disk.h"
#include "lib/job_log.h"
#include "lib/noise.h"

/* ---- sync modes ---------------------------------------------------------- */

static void co_full(void *opaque)
{
    struct disk d;

    co_disk_open(&d, "drive0", "s", "t");
    struct backup_params p = params_of(&d);
    job_log_start();
    struct job *job = co_start_backup(&d, &p, NULL);
    assert_string_equal(job->id, "drive0");
    assert_int_equal(co_until_ended(job), 0);
    job_log_is("created drive0, running drive0, paused drive0, "
               "running drive0, waiting drive0, pending drive0, "
               "COMPLETED drive0 2445312/2445312, concluded drive0, "
               "null drive0");
    job_log_stop();
    assert_copied(&d);
    assert_no_trace(&d);
    /* Zeroes went as such. */
    assert_true(fake_of(d.target)->calls[FAKE_ZEROES] >= 12);
    co_disk_close(&d);
}

/* A backup that says it succeeded is on the target's medium, and one that
 * cannot be put there keeps the bitmap. */
static void co_flushes_target(void *opaque)
{
    struct disk d;

    co_disk_open(&d, "drive0", "s", "t");
    struct dirty_bitmap *b = dirty_bitmap_new(d.source, "b", CLUSTER, NULL);
    hbitmap_set_all(b->bits);
    struct backup_params p = params_of(&d);
    p.sync = MIRROR_SYNC_MODE_INCREMENTAL;
    p.bitmap = b;
    p.bitmap_mode = BITMAP_SYNC_MODE_ON_SUCCESS;
    fake_of(d.target)->fail_at[FAKE_FLUSH] = 1;
    struct job *job = co_start_backup(&d, &p, NULL);
    assert_int_equal(co_until_ended(job), -EIO);
    assert_int_equal(dirty_bitmap_count(b), 38 * CLUSTER);

    unsigned before = fake_of(d.target)->calls[FAKE_FLUSH];
    job = co_start_backup(&d, &p, NULL);
    assert_int_equal(co_until_ended(job), 0);
    assert_int_equal(fake_of(d.target)->calls[FAKE_FLUSH], before + 1);
    assert_int_equal(dirty_bitmap_count(b), 0);
    dirty_bitmap_free(b);
    co_disk_close(&d);
}

static void co_full_with_noise(void *opaque)
{
    struct disk d;
    struct noise noise = {0};

    unsigned seed = test_seed();
    for (unsigned i = 0; i < 20; i++) {
        fake_seed(seed + i);
        co_disk_open(&d, "drive0", "s", "t");
        fake_of(d.source)->pauses = 4;
        fake_of(d.target)->pauses = 10;
        noise_start(&noise, d.backend, 4, seed + i);
        struct backup_params p = params_of(&d);
        assert_int_equal(co_until_ended(co_start_backup(&d, &p, NULL)), 0);
        co_noise_stop(&noise);
        assert_int_equal(noise.failed, 0);
        assert_copied(&d);
        assert_no_trace(&d);
        co_disk_close(&d);
    }
}

/* Only what a guest overwrites is copied, and the job runs until cancelled. */
static void co_none(void *opaque)
{
    struct disk d;
    struct fake_call c = {.is_write = true, .offset = CLUSTER, .bytes = 1};

    co_disk_open(&d, "drive0", "s", "t");
    struct backup_params p = params_of(&d);
    p.sync = MIRROR_SYNC_MODE_NONE;
    struct job *job = co_start_backup(&d, &p, NULL);
    co_settle();
    assert_int_equal(fake_of(d.target)->calls[FAKE_WRITE], 0);
    c.backend = d.backend;
    fake_start(&c);
    co_settle();
    assert_int_equal(c.ret, 0);
    assert_int_equal(fake_of(d.target)->calls[FAKE_WRITE], 1);
    assert_memory_equal(data_of(d.target) + CLUSTER, d.instant + CLUSTER,
                        CLUSTER);
    assert_int_equal(data_of(d.target)[0], 0xee);
    assert_int_equal(job->progress_current, CLUSTER);
    assert_int_equal(job->progress_total, LENGTH);
    assert_true(co_job_cancel(job, true, NULL));
    assert_int_equal(co_until_ended(job), -ECANCELED);
    assert_no_trace(&d);
    co_disk_close(&d);
}

/* What lies in the source's backing file stays where it is. */
static void co_top(void *opaque)
{
    struct node *base = co_fake_node("base", LENGTH);
    struct node *file = co_fake_node("file", LENGTH);
    struct node *top = co_fake_above("top", DRIVER_FORMAT, file);
    struct disk d = {
        .source = top,
        .target = co_fake_node("t", LENGTH),
        .instant = g_malloc(LENGTH),
    };

    co_fake_set_backing(top, base);
    fake_make_sparse(top, CLUSTER / 2);
    d.backend = co_backend_new("drive0", top, PERM_CONSISTENT_READ | PERM_WRITE,
                               PERM_ALL & ~(unsigned)PERM_RESIZE, NULL);
    memset(data_of(base), 0xbb, LENGTH);
    memset(data_of(file), 0x11, LENGTH);
    memset(data_of(d.target), 0xee, LENGTH);
    /* One whole cluster, and half of another. */
    fake_of(top)->allocated[4] = fake_of(top)->allocated[5] = 1;
    fake_of(top)->allocated[9] = 1;
    struct backup_params p = params_of(&d);
    p.sync = MIRROR_SYNC_MODE_TOP;
    fake_of(d.target)->hold[FAKE_WRITE] = true;
    struct job *job = job_ref(co_start_backup(&d, &p, NULL));
    co_settle();
    assert_int_equal(job->progress_total, 2 * CLUSTER);
    /* A write to what is not the source's own needs no copy. */
    struct fake_call c = {.backend = d.backend,
                          .is_write = true,
                          .offset = 20 * CLUSTER,
                          .bytes = 512};
    fake_start(&c);
    co_settle();
    assert_int_equal(c.ret, 0);
    fake_release(d.target);
    assert_int_equal(co_until_ended(job), 0);
    assert_int_equal(job->progress_total, 2 * CLUSTER);
    assert_int_equal(job->progress_current, 2 * CLUSTER);
    job_unref(job);
    for (int64_t i = 0; i < LENGTH; i++) {
        int64_t unit = i / (CLUSTER / 2);
        int expected = unit == 4 || unit == 5 || unit == 9 ? 0x11
                       : unit == 8                         ? 0xbb
                                                           : 0xee;
        assert_int_equal(data_of(d.target)[i], expected);
    }
    assert_no_trace(&d);
    co_node_unref(base);
    co_node_unref(file);
    co_disk_close(&d);
}

static void co_incremental(void *opaque)
{
    struct disk d;
    struct fake_call c = {
        .is_write = true, .offset = 5 * CLUSTER + 7, .bytes = 9};

    co_disk_open(&d, "drive0", "s", "t");
    struct dirty_bitmap *b = dirty_bitmap_new(d.source, "b0", CLUSTER, NULL);
    c.backend = d.backend;
    fake_start(&c);
    co_settle();
    assert_int_equal(dirty_bitmap_count(b), CLUSTER);
    struct backup_params p = params_of(&d);
    p.sync = MIRROR_SYNC_MODE_INCREMENTAL;
    p.bitmap = b;
    struct job *job = job_ref(co_start_backup(&d, &p, NULL));
    assert_true(b->busy);
    assert_int_equal(co_until_ended(job), 0);
    assert_int_equal(job->progress_total, CLUSTER);
    job_unref(job);
    assert_false(b->busy);
    assert_int_equal(dirty_bitmap_count(b), 0);
    assert_memory_equal(data_of(d.target) + 5 * CLUSTER,
                        d.instant + 5 * CLUSTER, CLUSTER);
    assert_int_equal(data_of(d.target)[0], 0xee);
    /* Nothing dirty: nothing to do. */
    assert_int_equal(co_until_ended(co_start_backup(&d, &p, NULL)), 0);
    assert_int_equal(dirty_bitmap_count(b), 0);
    dirty_bitmap_free(b);
    co_disk_close(&d);
}

/* ---- errors -------------------------------------------------------------- */

static void co_failing_read(void *opaque)
{
    struct disk d;

    co_disk_open(&d, "drive0", "s", "t");
    struct backup_params p = params_of(&d);
    fake_of(d.source)->fail_at[FAKE_READ] = 3;
    job_log_start();
    assert_int_equal(co_until_ended(co_start_backup(&d, &p, NULL)), -EIO);
    job_log_stop();
    assert_no_trace(&d);
    co_disk_close(&d);
}

static void co_stop_on_enospc(void *opaque)
{
    struct disk d;

    co_disk_open(&d, "drive0", "s", "t");
    struct backup_params p = params_of(&d);
    p.on_target_error = BLOCKDEV_ON_ERROR_ENOSPC;
    fake_of(d.target)->fail_errno = ENOSPC;
    fake_of(d.target)->fail_at[FAKE_WRITE] = 2;
    job_log_start();
    struct job *job = co_start_backup(&d, &p, NULL);
    co_settle();
    job_log_is("created drive0, running drive0, paused drive0, "
               "running drive0, ERROR drive0 write stop, paused drive0");
    assert_int_equal(job->io_status, BLOCK_DEVICE_IO_STATUS_NOSPACE);
    assert_true(job->user_paused);
    assert_true(job_user_resume(job, NULL));
    assert_int_equal(job->io_status, BLOCK_DEVICE_IO_STATUS_OK);
    assert_int_equal(co_until_ended(job), 0);
    job_log_is("running drive0, waiting drive0, pending drive0, "
               "COMPLETED drive0 2445312/2445312, concluded drive0, "
               "null drive0");
    job_log_stop();
    assert_copied(&d);
    co_disk_close(&d);
}

static void co_ignore(void *opaque)
{
    struct disk d;

    co_disk_open(&d, "drive0", "s", "t");
    struct backup_params p = params_of(&d);
    p.on_source_error = BLOCKDEV_ON_ERROR_IGNORE;
    fake_of(d.source)->fail_at[FAKE_READ] = 5;
    job_log_start();
    assert_int_equal(co_until_ended(co_start_backup(&d, &p, NULL)), 0);
    job_log_is("created drive0, running drive0, paused drive0, "
               "running drive0, ERROR drive0 read ignore, waiting drive0, "
               "pending drive0, COMPLETED drive0 2445312/2445312, "
               "concluded drive0, null drive0");
    job_log_stop();
    assert_copied(&d);
    co_disk_close(&d);
}

static void co_refused(struct disk *d, const struct backup_params *p,
                       const char *message)
{
    GError *error = NULL;

    assert_null(co_start_backup(d, p, &error));
    assert_string_equal(error->message, message);
    g_error_free(error);
    assert_no_trace(d);
}

static void co_refusals(void *opaque)
{
    struct disk d;

    co_disk_open(&d, "drive0", "s", "t");
    struct node *small = co_fake_node("small", LENGTH - CLUSTER);
    struct dirty_bitmap *b = dirty_bitmap_new(d.source, "b0", CLUSTER, NULL);
    struct backup_params p;
#define REFUSED(change, message)     \
    do {                             \
        p = params_of(&d);           \
        change;                      \
        co_refused(&d, &p, message); \
    } while (0)
    job_log_start();
    REFUSED(p.target = d.source, "Source and target cannot be the same");
    REFUSED(p.target = small, "Source and target image have different sizes");
    REFUSED(p.job_id = "9", "Invalid job ID '9'");
    REFUSED(p.speed = -1, "Parameter 'speed' expects a non-negative value");
    REFUSED(p.compress = true, "Compression is not supported for this drive ");
    REFUSED(p.max_workers = 0, "max-workers must be between 1 and 2147483647");
    REFUSED(p.max_chunk = -1,
            "max-chunk must be zero (which means no limit) or positive");
    REFUSED(p.max_chunk = 4096, "Required max-chunk (4096) is less than "
                                "backup cluster size (65536)");
    REFUSED(p.filter_node_name = "s", "Could not create node: Duplicate nodes "
                                      "with node-name='s'");
    REFUSED((p.bitmap = b, p.bitmap_mode = BITMAP_SYNC_MODE_NEVER),
            "Bitmap sync mode 'never' has no meaningful effect when combined "
            "with sync mode 'full'");
    REFUSED((p.bitmap = b, p.sync = MIRROR_SYNC_MODE_NONE),
            "sync mode 'none' does not produce meaningful bitmap outputs");
    dirty_bitmap_set_busy(b, true);
    REFUSED((p.bitmap = b, p.sync = MIRROR_SYNC_MODE_BITMAP),
            "Bitmap 'b0' is currently in use by another operation and cannot "
            "be used");
    dirty_bitmap_set_busy(b, false);
    /* Nothing was announced. */
    job_log_is("");
    job_log_stop();
    /* The target is taken, then the source's root, the filter. */
    p = params_of(&d);
    p.sync = MIRROR_SYNC_MODE_NONE;
    struct job *job = co_start_backup(&d, &p, NULL);
    GError *error = NULL;
    assert_null(co_start_backup(&d, &p, &error));
    assert_string_equal(error->message, "Node 't' is busy: block device is in "
                                        "use by block job: backup");
    g_clear_error(&error);
    p.job_id = "k";
    p.source = d.backend->node;
    p.target = small;
    assert_null(co_start_backup(&d, &p, &error));
    assert_string_equal(error->message,
                        "Node 'drive0' is busy: block device is in use by "
                        "block job: backup");
    g_clear_error(&error);
    co_job_cancel(job, true, NULL);
    co_until_ended(job);
    dirty_bitmap_free(b);
    co_node_unref(small);
    co_disk_close(&d);
}

/* ---- holding it up ------------------------------------------------------- */

static void co_pause_holds(void *opaque)
{
    struct disk d;

    co_disk_open(&d, "drive0", "s", "t");
    fake_of(d.target)->pauses = 30;
    struct backup_params p = params_of(&d);
    struct job *job = co_start_backup(&d, &p, NULL);
    assert_true(job_user_pause(job, NULL));
    co_settle();
    assert_int_equal(job->status, JOB_STATUS_PAUSED);
    assert_int_equal(fake_of(d.target)->inside, 0);
    int64_t at = job->progress_current;
    assert_true(at < LENGTH);
    co_settle();
    assert_int_equal(job->progress_current, at);
    assert_true(job_user_resume(job, NULL));
    assert_int_equal(co_until_ended(job), 0);
    assert_copied(&d);
    co_disk_close(&d);
}

static void co_speed_limits(void *opaque)
{
    struct disk d;

    co_disk_open(&d, "drive0", "s", "t");
    struct backup_params p = params_of(&d);
    p.speed = 10 * CLUSTER; /* one cluster a slice */
    struct job *job = co_start_backup(&d, &p, NULL);
    int64_t start = loop_now_ns(loop_current());
    while (loop_now_ns(loop_current()) - start < 1000000000) {
        co_settle();
        loop_clock_advance(loop_current(), 10000000);
    }
    assert_in_range(job->progress_current, 8 * CLUSTER, 12 * CLUSTER);
    assert_true(job_set_speed(job, 0, NULL));
    co_settle();
    assert_int_equal(job->status, JOB_STATUS_NULL);
    assert_int_equal(co_until_ended(job), 0);
    assert_copied(&d);
    co_disk_close(&d);
}

/* Drains from outside come and go while the job works. */
static void co_drains(void *opaque)
{
    struct disk d;
    struct noise noise = {0};

    co_disk_open(&d, "drive0", "s", "t");
    fake_of(d.source)->pauses = fake_of(d.target)->pauses = 6;
    noise_start(&noise, d.backend, 2, 1);
    struct backup_params p = params_of(&d);
    struct job *job = co_start_backup(&d, &p, NULL);
    for (int i = 0; i < 20 && job->status != JOB_STATUS_NULL; i++) {
        co_drain_begin(d.source);
        assert_int_equal(fake_of(d.source)->inside, 0);
        assert_int_equal(fake_of(d.target)->inside, 0);
        co_pause();
        co_drain_end(d.source);
        for (int k = 0; k < 20; k++) {
            co_pause();
        }
    }
    assert_int_equal(co_until_ended(job), 0);
    co_noise_stop(&noise);
    assert_copied(&d);
    co_disk_close(&d);
}

#define BACKUP_TEST(name)          \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
BACKUP_TEST(full)
BACKUP_TEST(flushes_target)
BACKUP_TEST(full_with_noise)
BACKUP_TEST(none)
BACKUP_TEST(top)
BACKUP_TEST(incremental)
BACKUP_TEST(failing_read)
BACKUP_TEST(stop_on_enospc)
BACKUP_TEST(ignore)
BACKUP_TEST(refusals)
BACKUP_TEST(pause_holds)
BACKUP_TEST(speed_limits)
BACKUP_TEST(drains)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full),
        cmocka_unit_test(flushes_target),
        cmocka_unit_test(full_with_noise),
        cmocka_unit_test(none),
        cmocka_unit_test(top),
        cmocka_unit_test(incremental),
        cmocka_unit_test(failing_read),
        cmocka_unit_test(stop_on_enospc),
        cmocka_unit_test(ignore),
        cmocka_unit_test(refusals),
        cmocka_unit_test(pause_holds),
        cmocka_unit_test(speed_limits),
        cmocka_unit_test(drains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
