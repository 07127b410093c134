/*
 * What the open file is.
 */
#include "block/io_command/io_command_int.h"

#include <string.h>

#include "block/backend.h"
#include "block/node.h"
#include "qapi/image_text.h"

/* What can be named as a protocol has that name, too. */
static void print_names(struct io_session *s, const struct block_driver *driver)
{
    bool protocol = driver->kind == DRIVER_PROTOCOL ||
                    !strcmp(driver->name, "blkdebug") ||
                    !strcmp(driver->name, "blkverify");

    fprintf(s->out, "format name: %s\n", driver->name);
    if (protocol) {
        fprintf(s->out, "format name: %s\n", driver->name);
    }
}

static bool co_info(struct io_session *s, const struct io_args *args)
{
    struct node *node = s->node ? s->node : s->backend->node;
    struct node_info info = {0};
    g_autoptr(GError) error = NULL;

    print_names(s, node->driver);
    if (co_node_get_info(node, &info) < 0) {
        return false;
    }
    g_autofree char *cluster = io_size_text(info.cluster_size);
    fprintf(s->out, "cluster size: %s\n", cluster);
    g_autofree char *state = io_size_text(info.vm_state_offset);
    fprintf(s->out, "vm state offset: %s\n", state);
    if (node_is_filter(node)) {
        return true;
    }
    qapi_auto(image_info) image = co_node_query_image(node, true, &error);
    if (!image) {
        return io_fail(s, &error);
    }
    qapi_print_image_specific(s->out, image->format_specific);
    return true;
}

const struct io_command io_command_info = {
    .name = "info",
    .alias = "i",
    .max = 0,
    .usage = "",
    .what = "prints what the file is",
    .co_run = co_info,
};
