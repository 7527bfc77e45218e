#include "stage.h"
const struct gpt_backend gpt_cuda;
