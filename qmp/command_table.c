/*
 * Look-up in the generated table of commands. Any loop; nothing changes.
 */
#include "qmp/dispatch.h"

#include <stdlib.h>
#include <string.h>

static int compare_name(const void *key, const void *row)
{
    return strcmp(key, ((const struct qmp_command *)row)->name);
}

const struct qmp_command *qmp_command_find(const char *name)
{
    const struct qmp_command *command =
        bsearch(name, qmp_commands, qmp_commands_count, sizeof(*qmp_commands),
                compare_name);
    return command && command->handler ? command : NULL;
}

bool qmp_command_available(const char *name, void *opaque)
{
    return qmp_command_find(name) != NULL;
}

bool qmp_command_has_feature(const struct qmp_command *command,
                             const char *feature)
{
    for (const char *const *f = command->features; f && *f; f++) {
        if (!strcmp(*f, feature)) {
            return true;
        }
    }
    return false;
}
