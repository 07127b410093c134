/*
 * block/jobs/backup.c: whatever the guest, errors, cancels, pauses and speed
 * limits do, no dirty bit is ever lost, and a backup that succeeds is the
 * source at one instant.
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
#include "block/dirty_bitmap.h"
#include "lib/backup_disk.h"
#include "lib/noise.h"

/* Where the bitmap is clean, the target has what the source has. */
static void co_check_coverage(const struct disk *d, struct dirty_bitmap *b)
{
    co_drain_begin(d->source);
    for (int64_t i = 0; i < LENGTH; i += 512) {
        if (!hbitmap_get(b->bits, i) &&
            memcmp(data_of(d->source) + i, data_of(d->target) + i, 512)) {
            fail_msg("a dirty bit is lost at %" G_GINT64_FORMAT, i);
        }
    }
    co_drain_end(d->source);
}

/* A failed job gives back every bit it was given, but for those that
 * bitmap-mode=always has seen copied. */
static void check_given_back(const struct hbitmap *before,
                             const struct dirty_bitmap *b)
{
    for (int64_t i = 0; i < LENGTH; i += 16384) {
        if (hbitmap_get(before, i) && !hbitmap_get(b->bits, i)) {
            fail_msg("bit at %" G_GINT64_FORMAT " not given back", i);
        }
    }
}

static void random_errors(GRand *r, struct disk *d, struct backup_params *p)
{
    static const enum blockdev_on_error policies[] = {
        BLOCKDEV_ON_ERROR_REPORT, BLOCKDEV_ON_ERROR_REPORT,
        BLOCKDEV_ON_ERROR_IGNORE, BLOCKDEV_ON_ERROR_STOP,
        BLOCKDEV_ON_ERROR_ENOSPC,
    };

    p->on_source_error = policies[g_rand_int_range(r, 0, 5)];
    p->on_target_error = policies[g_rand_int_range(r, 0, 5)];
    fake_of(d->source)->fail_at[FAKE_READ] = g_rand_int_range(r, 0, 30);
    fake_of(d->target)->fail_at[FAKE_WRITE] = g_rand_int_range(r, 0, 30);
    fake_of(d->target)->fail_at[FAKE_ZEROES] = g_rand_int_range(r, 0, 10);
    fake_of(d->target)->fail_errno = g_rand_boolean(r) ? ENOSPC : EIO;
}

static void random_mode(GRand *r, struct backup_params *p,
                        struct dirty_bitmap *b)
{
    p->bitmap = b;
    p->sync = MIRROR_SYNC_MODE_BITMAP;
    p->bitmap_mode = g_rand_int_range(r, 0, BITMAP_SYNC_MODE__COUNT);
    if (g_rand_int_range(r, 0, 4) == 0) {
        p->sync = MIRROR_SYNC_MODE_FULL;
        p->bitmap_mode = g_rand_boolean(r) ? BITMAP_SYNC_MODE_ALWAYS
                                           : BITMAP_SYNC_MODE_ON_SUCCESS;
    }
    p->max_workers = g_rand_int_range(r, 1, 9);
    p->speed = g_rand_boolean(r) ? 0 : g_rand_int_range(r, 1, 100) * CLUSTER;
    p->max_chunk = g_rand_boolean(r) ? 0 : 3 * CLUSTER + 5;
}

/* Cancels, pauses, resumes and changes the speed at random until the end. */
static int co_torture(GRand *r, struct job *job)
{
    bool may_cancel = g_rand_boolean(r);

    while (job->status != JOB_STATUS_NULL) {
        switch (g_rand_int_range(r, 0, may_cancel ? 41 : 40)) {
        case 0:
            job_user_pause(job, NULL);
            break;
        case 1:
        case 2:
            job_user_resume(job, NULL);
            break;
        case 3:
            job_set_speed(job, g_rand_int_range(r, 0, 50) * CLUSTER, NULL);
            break;
        case 40:
            co_job_cancel(job, true, NULL);
            break;
        default:
            break;
        }
        co_pause();
        loop_clock_advance(loop_current(), 100000);
    }
    return job->ret;
}

static void co_no_bit_is_lost(void *opaque)
{
    unsigned seed = test_seed();
    GRand *r = g_rand_new_with_seed(seed);
    struct disk d;
    struct noise noise = {.rest = 200};
    unsigned ok = 0, failed = 0;

    fake_seed(seed);
    co_disk_open(&d, "drive0", "s", "t");
    struct dirty_bitmap *b = dirty_bitmap_new(d.source, "b0", 16384, NULL);
    hbitmap_set_all(b->bits);
    fake_of(d.source)->pauses = 3;
    fake_of(d.target)->pauses = 8;
    noise_start(&noise, d.backend, 3, seed);
    for (int i = 0; i < 150; i++) {
        struct backup_params p = params_of(&d);
        random_mode(r, &p, b);
        random_errors(r, &d, &p);
        struct hbitmap *before = hbitmap_new(LENGTH, 16384);
        hbitmap_merge(before, b->bits);
        struct job *job = co_start_backup(&d, &p, NULL);
        assert_non_null(job);
        int ret = co_torture(r, job);
        job_unref(job);
        assert_false(b->busy);
        assert_true(dirty_bitmap_recording(b));
        assert_null(b->successor);
        assert_no_trace(&d);
        co_check_coverage(&d, b);
        if (ret == 0) {
            assert_copied(&d);
        }
        if (p.bitmap_mode == BITMAP_SYNC_MODE_NEVER ||
            (ret && p.bitmap_mode == BITMAP_SYNC_MODE_ON_SUCCESS)) {
            check_given_back(before, b);
        }
        hbitmap_free(before);
        ret ? failed++ : ok++;
    }
    co_noise_stop(&noise);
    /* The test must have seen both. */
    assert_true(ok > 10 && failed > 10);
    dirty_bitmap_free(b);
    co_disk_close(&d);
    g_rand_free(r);
}

/* With bitmap-mode=always a failed job still clears what it has copied. */
static void co_always_keeps_copied(void *opaque)
{
    struct disk d;

    co_disk_open(&d, "drive0", "s", "t");
    struct dirty_bitmap *b = dirty_bitmap_new(d.source, "b0", CLUSTER, NULL);
    hbitmap_set_all(b->bits);
    struct backup_params p = params_of(&d);
    p.sync = MIRROR_SYNC_MODE_BITMAP;
    p.bitmap = b;
    p.bitmap_mode = BITMAP_SYNC_MODE_ALWAYS;
    p.max_workers = 1;
    p.max_chunk = CLUSTER;
    /* The first two clusters of data go, the third zeroes, the fourth fails. */
    fake_of(d.target)->fail_at[FAKE_WRITE] = 3;
    assert_int_equal(co_until_ended(co_start_backup(&d, &p, NULL)), -EIO);
    assert_int_equal(hbitmap_next_set(b->bits, 0, LENGTH), 3 * CLUSTER);
    assert_int_equal(
        hbitmap_next_clear(b->bits, 3 * CLUSTER, LENGTH - 3 * CLUSTER), -1);
    assert_int_equal(co_until_ended(co_start_backup(&d, &p, NULL)), 0);
    assert_true(hbitmap_empty(b->bits));
    assert_copied(&d);
    dirty_bitmap_free(b);
    co_disk_close(&d);
}

/* Two disks that end together or not at all. */
static void co_grouped_disks(void *opaque)
{
    unsigned seed = test_seed();
    GRand *r = g_rand_new_with_seed(seed);
    struct disk d[2];
    struct dirty_bitmap *b[2];
    struct noise noise[2] = {{.rest = 200}, {.rest = 200}};

    fake_seed(seed);
    co_disk_open(&d[0], "drive0", "s0", "t0");
    co_disk_open(&d[1], "drive1", "s1", "t1");
    for (int i = 0; i < 2; i++) {
        b[i] = dirty_bitmap_new(d[i].source, "b0", CLUSTER, NULL);
        hbitmap_set_all(b[i]->bits);
        fake_of(d[i].source)->pauses = 3;
        fake_of(d[i].target)->pauses = 8;
        noise_start(&noise[i], d[i].backend, 2, seed + (unsigned)i);
    }
    for (int round = 0; round < 40; round++) {
        struct job_group *group = job_group_new();
        struct job *jobs[2];
        co_graph_lock(GRAPH_LOCK_CHANGE);
        co_drain_all_begin();
        for (int i = 0; i < 2; i++) {
            struct backup_params p = params_of(&d[i]);
            p.sync = MIRROR_SYNC_MODE_INCREMENTAL;
            p.bitmap = b[i];
            fake_of(d[i].target)->fail_at[FAKE_WRITE] =
                g_rand_int_range(r, 0, 60);
            jobs[i] = co_backup_prepare(&p, group, NULL);
            assert_non_null(jobs[i]);
            job_ref(jobs[i]);
            memcpy(d[i].instant, data_of(d[i].source), LENGTH);
        }
        job_group_unref(group);
        bool abort = g_rand_int_range(r, 0, 5) == 0;
        for (int i = 1; i >= 0; i--) {
            abort ? co_job_abort_created(jobs[i]) : job_start(jobs[i]);
        }
        co_drain_all_end();
        graph_unlock(GRAPH_LOCK_CHANGE);
        int ret[2] = {co_until_ended(jobs[0]), co_until_ended(jobs[1])};
        assert_int_equal(!ret[0], !ret[1]);
        for (int i = 0; i < 2; i++) {
            assert_no_trace(&d[i]);
            assert_false(b[i]->busy);
            co_check_coverage(&d[i], b[i]);
            if (!ret[i]) {
                assert_copied(&d[i]);
            }
        }
    }
    for (int i = 0; i < 2; i++) {
        co_noise_stop(&noise[i]);
        dirty_bitmap_free(b[i]);
        co_disk_close(&d[i]);
    }
    g_rand_free(r);
}

#define BACKUP_TEST(name)          \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
BACKUP_TEST(no_bit_is_lost)
BACKUP_TEST(always_keeps_copied)
BACKUP_TEST(grouped_disks)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_bit_is_lost),
        cmocka_unit_test(always_keeps_copied),
        cmocka_unit_test(grouped_disks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
