/*
 * varve-img snapshot: the snapshots within an image.
 */
#include "block/snapshot.h"

#include <stdio.h>
#include "tools/common/image_info.h"
#include "tools/varve-img/img.h"

enum action {
    ACTION_NONE,
    ACTION_LIST,
    ACTION_CREATE,
    ACTION_APPLY,
    ACTION_DELETE,
};

struct snapshot {
    struct image_open how;
    enum action action;
    const char *name;
    bool quiet;
};

/* An option that says what to do; only one may. */
struct choice {
    struct snapshot *o;
    enum action action;
};

static bool take_action(const char *argument, void *opaque, int *status)
{
    const struct choice *c = opaque;

    if (c->o->action != ACTION_NONE) {
        *status = tool_usage_error("Cannot mix '-l', '-a', '-c', '-d'");
        return false;
    }
    c->o->action = c->action;
    c->o->name = argument;
    return true;
}

static int co_take(const struct snapshot *o, struct node *node)
{
    /* What the peer's tool has there for want of a machine. */
    struct snapshot_info info = {.name = (char *)o->name, .has_icount = true};
    int ret = co_node_snapshot_create(node, &info);

    if (ret < 0) {
        tool_error("Could not create snapshot '%s': %d (%s)", o->name, ret,
                   g_strerror(-ret));
    }
    return ret < 0;
}

static int fail(const char *verb, const struct snapshot *o, GError **error)
{
    g_autofree char *prefix =
        g_strdup_printf("Could not %s snapshot '%s'", verb, o->name);

    return tool_fail_at(prefix, error);
}

static int co_snapshot(void *opaque, struct node *node)
{
    const struct snapshot *o = opaque;
    struct snapshot_info_list *list;
    g_autoptr(GError) error = NULL;

    switch (o->action) {
    case ACTION_NONE:
        break;
    case ACTION_LIST:
        list = node_snapshots(node);
        tool_print_snapshots(stdout, list);
        snapshot_info_list_free(list);
        break;
    case ACTION_CREATE:
        return co_take(o, node);
    case ACTION_APPLY:
        return co_node_snapshot_apply(node, o->name, &error)
                   ? 0
                   : fail("apply", o, &error);
    case ACTION_DELETE:
        return co_node_snapshot_delete(node, NULL, o->name, &error)
                   ? 0
                   : fail("delete", o, &error);
    }
    return 0;
}

static int snapshot_run(int argc, char **argv)
{
    struct snapshot o = {0};
    bool list = false;
    struct choice create = {&o, ACTION_CREATE}, apply = {&o, ACTION_APPLY},
                  delete = {&o, ACTION_DELETE};
    const struct tool_option rows[] = {
        {'l', NULL, .flag = &list},
        {'a', NULL, .take = take_action, .opaque = &apply},
        {'c', NULL, .take = take_action, .opaque = &create},
        {'d', NULL, .take = take_action, .opaque = &delete},
        {'q', "quiet", .flag = &o.quiet},
        {'U', "force-share", .flag = &o.how.force_share},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status;

    if (!img_options(argc, argv, rows, &o.how, &status)) {
        return status;
    }
    if (list &&
        !take_action(NULL, &(struct choice){&o, ACTION_LIST}, &status)) {
        return status;
    }
    o.how.writable = o.action != ACTION_LIST && o.action != ACTION_NONE;
    o.how.resize = o.action == ACTION_APPLY;
    return img_run(&o.how, co_snapshot, &o);
}

const struct subcommand cmd_snapshot = {
    .name = "snapshot",
    .usage = "[-l | -a SNAPSHOT | -c SNAPSHOT | -d SNAPSHOT] [-q] [-U] FILE",
    .what = "Lists, takes, applies or deletes snapshots within an image.",
    .help =
        "  -l                list them\n"
        "  -c SNAPSHOT       take one of that name\n"
        "  -a SNAPSHOT       go back to the one with that number or name; what "
        "was\n"
        "                    written since is lost\n"
        "  -d SNAPSHOT       delete the one of that name\n"
        "  --image-opts      FILE is a list of options, not a name\n"
        "  -U, --force-share with -l: open an image that another process "
        "writes to\n"
        "  -q                print nothing but errors and what -l asks for\n"
        "\n"
        "A snapshot shares all clusters with the disk that have not changed\n"
        "since.\n"
        "\n"
        "examples:\n"
        "  varve-img snapshot -c before-upgrade disk.qcow2\n"
        "  varve-img snapshot -a before-upgrade disk.qcow2\n",
    .run = snapshot_run,
};
