/*
 * -l: which snapshot of an image a subcommand is to read.
 */
#include "tools/varve-img/img.h"

#include <string.h>
#include "block/snapshot.h"
#include "util/error.h"
#include "util/keyval.h"

static bool is_list(const char *text)
{
    return g_str_has_prefix(text, "snapshot.");
}

/* "snapshot.id=1,snapshot.name=a", in pairs; what is not given is NULL. */
static bool parse(const char *text, GPtrArray **pairs, const char **id,
                  const char **name, GError **error)
{
    *id = *name = NULL;
    *pairs = keyval_split(text, NULL, error);
    for (unsigned i = 0; *pairs && i < (*pairs)->len; i++) {
        const struct keyval *kv = g_ptr_array_index(*pairs, i);
        if (!strcmp(kv->key, "snapshot.id")) {
            *id = kv->value;
        } else if (!strcmp(kv->key, "snapshot.name")) {
            *name = kv->value;
        } else {
            return error_set(error, "Invalid parameter '%s'", kv->key);
        }
    }
    return *pairs;
}

bool img_take_snapshot(const char *argument, void *opaque, int *status)
{
    struct image_open *how = opaque;
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) pairs = NULL;
    const char *id, *name;

    if (is_list(argument) && !parse(argument, &pairs, &id, &name, &error)) {
        tool_fail(&error);
        tool_error("Failed in parsing snapshot param '%s'", argument);
        return false;
    }
    how->internal = argument;
    return true;
}

static bool co_load(struct node *node, const char *text, GError **error)
{
    g_autoptr(GPtrArray) pairs = NULL;
    const char *id, *name;

    if (is_list(text)) {
        return parse(text, &pairs, &id, &name, error) &&
               co_node_snapshot_load(node, id, name, error);
    }
    /* A number, or else a name. */
    return co_node_snapshot_load(node, text, NULL, NULL) ||
           co_node_snapshot_load(node, NULL, text, error);
}

bool co_img_load_snapshot(struct node *node, const char *text)
{
    g_autoptr(GError) error = NULL;

    return co_load(node, text, &error) ||
           !tool_fail_at("Failed to load snapshot", &error);
}
