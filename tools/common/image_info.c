/*
 * The lines of qemu-img info that only a format knows.
 */
#include "tools/common/image_info.h"

#include <glib.h>
#include <json-c/json.h>

#include "qapi/codec.h"

void tool_print_specific(FILE *out, const struct image_info_specific *specific)
{
    if (!specific || specific->type != IMAGE_INFO_SPECIFIC_KIND_QCOW2) {
        return;
    }
    struct json_object *tree =
        qapi_encode(&qapi_type_image_info_specific, specific);
    struct json_object *data;

    fprintf(out, "Format specific information:\n");
    if (json_object_object_get_ex(tree, "data", &data)) {
        json_object_object_foreach(data, key, value)
        {
            g_autofree char *label = g_strdelimit(g_strdup(key), "-", ' ');
            fprintf(out, "    %s: %s\n", label, json_object_get_string(value));
        }
    }
    json_object_put(tree);
}
