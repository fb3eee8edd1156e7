// Everything of the library in one include.
#pragma once

#include "coluber/autograd.h"
#include "coluber/config.h"
#include "coluber/context.h"
#include "coluber/device.h"
#include "coluber/dtype.h"
#include "coluber/error.h"
#include "coluber/generate.h"
#include "coluber/model.h"
#include "coluber/modules.h"
#include "coluber/ops.h"
#include "coluber/state.h"
#include "coluber/tensor.h"
#include "coluber/tokenizer.h"
#include "coluber/train.h"
#include "coluber/version.h"
