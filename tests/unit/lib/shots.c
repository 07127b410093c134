/*
 * The helpers of shots.h.
 */
#include "shots.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "block/snapshot.h"
#include "qcow2_image.h"

static void shot_free(gpointer opaque)
{
    struct shot *shot = opaque;

    g_free(shot->name);
    g_free(shot->model);
    g_free(shot);
}

GPtrArray *shots_new(void)
{
    return g_ptr_array_new_with_free_func(shot_free);
}

void shots_add(GPtrArray *shots, const char *name, const uint8_t *model,
               int64_t size)
{
    struct shot *shot = g_new(struct shot, 1);

    *shot = (struct shot){g_strdup(name), g_memdup2(model, size), size};
    g_ptr_array_add(shots, shot);
}

GPtrArray *shots_copy(const GPtrArray *shots)
{
    GPtrArray *copy = shots_new();

    for (unsigned i = 0; i < shots->len; i++) {
        const struct shot *shot = g_ptr_array_index(shots, i);
        shots_add(copy, shot->name, shot->model, shot->size);
    }
    return copy;
}

void co_verify_shots(const char *open, const GPtrArray *shots)
{
    for (unsigned i = 0; i < shots->len; i++) {
        const struct shot *shot = g_ptr_array_index(shots, i);
        struct stress v = {.model = shot->model, .unit = 512};
        GError *error = NULL;
        v.node = co_open("%s", open);
        struct snapshot_info_list *list = node_snapshots(v.node);
        assert_int_equal(list->n, shots->len);
        assert_string_equal(list->items[i]->name, shot->name);
        snapshot_info_list_free(list);
        if (!co_node_snapshot_load(v.node, NULL, shot->name, &error)) {
            fail_msg("%s", error->message);
        }
        assert_int_equal(v.node->length, shot->size);
        v.unknown = g_malloc0(shot->size / 512);
        co_verify(&v, 0, shot->size);
        g_free(v.unknown);
        co_node_unref(v.node);
    }
}
