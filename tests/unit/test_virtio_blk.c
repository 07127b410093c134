/*
 * hw/virtio-blk: features, configuration space and the making of a device
 * (virtio 1.1, 5.2.3 to 5.2.5).
 */
#include "lib/driver_by_hand.h"

#include <limits.h>

#include "util/error.h"
#include "util/keyval.h"

/* ---- features and configuration ---- */

static void co_config(struct fixture *f)
{
    struct virtio_blk_config c = config(f);
    uint8_t beyond[8];

    assert_int_equal(sizeof(c), 60);
    assert_int_equal(c.capacity, DISK_BYTES / 512);
    assert_int_equal(c.size_max, 0x7ffffc00);
    assert_int_equal(c.seg_max, 62);
    assert_int_equal(c.blk_size, 1024);
    assert_int_equal(c.topology.physical_block_exp, 2);
    assert_int_equal(c.topology.min_io_size, 4);
    assert_int_equal(c.topology.opt_io_size, 64);
    assert_int_equal(c.writeback, 1);
    assert_int_equal(c.num_queues, 3);
    assert_int_equal(c.max_discard_sectors, 1000);
    assert_int_equal(c.discard_sector_alignment, 8);
    assert_int_equal(c.max_write_zeroes_sectors, 4194303);
    assert_true(c.max_discard_seg > 0 && c.max_write_zeroes_seg > 0);
    assert_int_equal(c.write_zeroes_may_unmap, 1);
    memset(beyond, 0xff, sizeof(beyond));
    virtio_blk_config_read(f->dev, 58, beyond, 8);
    assert_int_equal(beyond[2] | beyond[7], 0);
    virtio_blk_config_read(f->dev, UINT_MAX, beyond, 8);
}

static void configuration_space_says_what_was_asked_for(void **state)
{
    run_fixture((struct fixture){
        .co_test = co_config,
        .props = {.num_queues = 3,
                  .queue_size = 64,
                  .logical_bytes = 1024,
                  .physical_bytes = 4096,
                  .min_io_bytes = 4096,
                  .opt_io_bytes = 65536,
                  .max_discard_sectors = 1000},
    });
}

static void co_size_max(struct fixture *f)
{
    assert_int_equal(config(f).size_max, 4096);
    assert_true(virtio_blk_has(f->dev, VIRTIO_BLK_F_SIZE_MAX));
    /* A driver that takes no notice is served as well. */
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 0x8000, false),
                     VIRTIO_BLK_S_OK);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 0x8000, true),
                     VIRTIO_BLK_S_OK);
}

static void size_max_is_told_but_larger_segments_are_taken(void **state)
{
    run_fixture(
        (struct fixture){.co_test = co_size_max, .props = {.size_max = 4096}});
}

static uint64_t offered_with(struct virtio_blk_props props, bool read_only);
static uint64_t offered;

static void co_offered(struct fixture *f)
{
    offered = virtio_blk_offered(f->dev);
}

static uint64_t offered_with(struct virtio_blk_props props, bool read_only)
{
    run_fixture((struct fixture){
        .co_test = co_offered, .props = props, .read_only = read_only});
    return offered;
}

static void features_follow_the_properties(void **state)
{
    static const struct {
        struct virtio_blk_props props;
        bool read_only;
        uint64_t less, more; /* than by default */
    } rows[] = {
        {{.no_event_idx = true}, false, VIRTIO_BIT(VIRTIO_F_EVENT_IDX), 0},
        {{.no_indirect = true}, false, VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC), 0},
        {{.no_discard = true}, false, VIRTIO_BIT(VIRTIO_BLK_F_DISCARD), 0},
        {{.no_write_zeroes = true},
         false,
         VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES),
         0},
        {{.num_queues = 2}, false, 0, VIRTIO_BIT(VIRTIO_BLK_F_MQ)},
        {{.no_config_wce = true},
         false,
         VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE),
         0},
        {{.no_config_wce = true, .no_write_cache = true},
         false,
         VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE) | VIRTIO_BIT(VIRTIO_BLK_F_FLUSH),
         0},
        {{0},
         true,
         VIRTIO_BIT(VIRTIO_BLK_F_DISCARD) |
             VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES),
         VIRTIO_BIT(VIRTIO_BLK_F_RO)},
    };
    uint64_t usual = offered_with((struct virtio_blk_props){0}, false);

    assert_true(usual & VIRTIO_BIT(VIRTIO_F_VERSION_1));
    assert_true(usual & VIRTIO_BIT(VIRTIO_BLK_F_SEG_MAX));
    assert_false(usual & VIRTIO_BIT(VIRTIO_BLK_F_RO));
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        assert_int_equal(offered_with(rows[i].props, rows[i].read_only),
                         (usual & ~rows[i].less) | rows[i].more);
    }
    for (unsigned bit = 0; bit < 64; bit++) {
        assert_int_equal(!!(usual & VIRTIO_BIT(bit)),
                         usual & VIRTIO_BIT(bit) &&
                             virtio_blk_feature_name(bit) != NULL);
    }
}

static void co_negotiation(struct fixture *f)
{
    struct virtio_blk *dev = f->dev;
    static const uint64_t bad[] = {
        0,
        VIRTIO_BIT(VIRTIO_BLK_F_FLUSH),
        VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_BLK_F_GEOMETRY),
        VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(63),
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        virtio_blk_set_status(dev, 0);
        assert_int_equal(virtio_blk_status(dev), 0);
        virtio_blk_set_status(dev, 1);
        virtio_blk_set_status(dev, 3);
        virtio_blk_ack(dev, bad[i]);
        virtio_blk_set_status(dev, 11);
        assert_int_equal(virtio_blk_status(dev), 3);
        /* And no way around it. */
        virtio_blk_set_status(dev, 15);
        assert_int_equal(virtio_blk_status(dev), 3);
        assert_false(dev->active);
    }
    virtio_blk_ack(dev, VIRTIO_BIT(VIRTIO_F_VERSION_1));
    virtio_blk_set_status(dev, 11);
    assert_int_equal(virtio_blk_status(dev), 11);
    virtio_blk_ack(dev, UINT64_MAX); /* too late */
    assert_int_equal(dev->acked, VIRTIO_BIT(VIRTIO_F_VERSION_1));
}

static void only_offered_features_are_accepted(void **state)
{
    run(co_negotiation);
}

static void co_write_cache(struct fixture *f)
{
    uint8_t on = 1, off = 0;
    unsigned at = offsetof(struct virtio_blk_config, writeback);

    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512, false), 0);
    assert_int_equal(disk.last_flags & REQ_FUA, 0);
    virtio_blk_config_write(f->dev, at, &off, 1);
    assert_int_equal(config(f).writeback, 0);
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512, false), 0);
    assert_int_equal(disk.last_flags & REQ_FUA, REQ_FUA);
    virtio_blk_config_write(f->dev, at, &on, 1);
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512, false), 0);
    assert_int_equal(disk.last_flags & REQ_FUA, 0);
    /* Nothing else can be written. */
    uint8_t junk[64];
    struct virtio_blk_config before = config(f);
    memset(junk, 0xff, sizeof(junk));
    virtio_blk_config_write(f->dev, 0, junk, at);
    virtio_blk_config_write(f->dev, at + 1, junk, 8);
    virtio_blk_config_write(f->dev, 1000, junk, 8);
    struct virtio_blk_config after = config(f);
    assert_memory_equal(&before, &after, sizeof(before));
}

static void guest_switches_the_write_cache(void **state)
{
    run(co_write_cache);
}

static void co_writethrough(struct fixture *f)
{
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512, false), 0);
    assert_int_equal(disk.last_flags & REQ_FUA, REQ_FUA);
}

static void driver_that_cannot_flush_gets_stable_writes(void **state)
{
    run_fixture((struct fixture){.co_test = co_writethrough,
                                 .drop = VIRTIO_BIT(VIRTIO_BLK_F_FLUSH) |
                                         VIRTIO_BIT(VIRTIO_BLK_F_CONFIG_WCE)});
    run_fixture((struct fixture){.co_test = co_writethrough,
                                 .props = {.no_write_cache = true}});
}

static void co_capacity(struct fixture *f)
{
    uint8_t generation = f->dev->config_generation;

    disk.node->length = DISK_BYTES - 512;
    disk.backend->device_ops->resized(disk.backend->device);
    assert_int_equal(config(f).capacity, DISK_BYTES / 512 - 1);
    assert_int_equal(f->config_notifications, 1);
    assert_int_not_equal(f->dev->config_generation, generation);
    disk.backend->device_ops->resized(disk.backend->device);
    assert_int_equal(f->config_notifications, 1);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, DISK_BYTES / 512 - 1, 512, 1),
                     VIRTIO_BLK_S_IOERR);
}

static void change_of_capacity_is_notified(void **state)
{
    run(co_capacity);
}

/* ---- making a device ---- */

static char *co_try(const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) options = keyval_split(text, "driver", NULL);

    if (!co_hw_device_add(options, NULL, &error)) {
        return g_strdup(error->message);
    }
    return g_strdup("");
}

static void co_device_add(void *opaque)
{
    static const struct {
        const char *text, *error;
    } rows[] = {
        {"virtio-blk", "drive property not set"},
        {"e1000,drive=drive0", "'e1000' is not a valid device model name"},
        {"virtio-blk-pci,drive=nope",
         "Property 'virtio-blk-pci.drive' can't find value 'nope'"},
        {"virtio-blk,drive=drive0,frob=1",
         "Property 'virtio-blk.frob' not found"},
        {"virtio-blk,drive=drive0,num-queues=x",
         "Parameter 'num-queues' expects a number"},
        {"virtio-blk,drive=drive0,discard=maybe",
         "Parameter 'discard' expects 'on' or 'off'"},
        {"virtio-blk,drive=drive0,queue-size=3",
         "invalid queue-size property (3), must be a power of 2 between 4 and "
         "1024"},
        {"virtio-blk,drive=drive0,num-queues=65",
         "num-queues must be between 1 and 64"},
        {"virtio-blk,drive=drive0,serial=123456789012345678901",
         "serial is longer than 20 bytes"},
        {"virtio-blk,drive=drive0,size-max=4095",
         "size-max must be a multiple of logical_block_size and at least "
         "4096"},
        {"virtio-blk,drive=drive0,logical_block_size=100",
         "logical_block_size and physical_block_size must be powers of 2 "
         "between 512 and 2 MiB"},
        {"virtio-blk-pci,drive=drive0,id=vd0,bus=pci.0,addr=04.0,"
         "num-queues=2,logical_block_size=4k,write-cache=off,werror=stop,"
         "rerror=ignore,serial=abc,event_idx=off",
         ""},
        {"virtio-blk,drive=drive0,id=vd1",
         "Drive 'drive0' is already in use by another device"},
    };

    co_guest_disk_new(DISK_BYTES, false);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *error = co_try(rows[i].text);
        assert_string_equal(error, rows[i].error);
    }
    struct virtio_blk *dev = virtio_blk_find("vd0", NULL);
    assert_non_null(dev);
    assert_ptr_equal(virtio_blk_find("drive0", NULL), dev);
    assert_null(virtio_blk_find("vd1", NULL));
    assert_int_equal(dev->num_queues, 2);
    assert_int_equal(dev->logical_bytes, 4096);
    assert_true(dev->props.no_write_cache);
    assert_false(virtio_blk_offered(dev) & VIRTIO_BIT(VIRTIO_F_EVENT_IDX));
    assert_int_equal(disk.backend->on_write_error, BLOCKDEV_ON_ERROR_STOP);
    assert_int_equal(disk.backend->on_read_error, BLOCKDEV_ON_ERROR_IGNORE);
    co_hw_device_del_all();

    /* On a node: a second writer is refused unless it is shared. */
    g_autofree char *conflict = co_try("virtio-blk,drive=disk0,id=onnode");
    assert_non_null(strstr(conflict, "'write'"));
    g_autofree char *error =
        co_try("virtio-blk,drive=disk0,id=onnode,share-rw=on");
    assert_string_equal(error, "");
    assert_non_null(virtio_blk_find("onnode", NULL));
    co_hw_device_del_all();
    co_guest_disk_free();
}

static void device_is_made_from_text_or_refused_by_name(void **state)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_SIMULATED);

    loop_run_co(loop, co_device_add, NULL);
    loop_free(loop);
}

static void help_lists_devices_and_properties(void **state)
{
    g_autofree char *devices = hw_device_help(NULL, NULL);
    g_autofree char *properties = hw_device_help("virtio-blk-pci", NULL);

    assert_non_null(strstr(devices, "\"virtio-blk-pci\""));
    assert_non_null(strstr(properties, "queue-size="));
    assert_null(hw_device_help("nope", NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configuration_space_says_what_was_asked_for),
        cmocka_unit_test(size_max_is_told_but_larger_segments_are_taken),
        cmocka_unit_test(features_follow_the_properties),
        cmocka_unit_test(only_offered_features_are_accepted),
        cmocka_unit_test(guest_switches_the_write_cache),
        cmocka_unit_test(driver_that_cannot_flush_gets_stable_writes),
        cmocka_unit_test(change_of_capacity_is_notified),
        cmocka_unit_test(device_is_made_from_text_or_refused_by_name),
        cmocka_unit_test(help_lists_devices_and_properties),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
