#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor_sink.h"
#include "families/open.h"
#include "surgery/write/recode.h"
#include "surgery/write/roles.h"

// Inside the room: a file or folder that is to be written, before formats are chosen and a byte is written. What would
// be read from it has been compared with the model.
namespace coterie::surgery {

struct FilePlan {
  std::vector<checkpoint::TensorToWrite> tensors;         // as they are in the source
  Roles roles;                                            // a tensor without one is written as it is
  std::map<std::string, Change, std::less<>> changes;     // of those whose values differ
  std::map<std::string, std::vector<float>> made;         // values of tensors that no weight holds
  std::map<std::string, std::string> importance_names;    // that calibration gives them, where it is another
  std::vector<std::string> notes;                         // what cannot be expressed, and why
  checkpoint::Metadata metadata;                          // of a GGUF
  base::Json config;                                      // of a folder
  std::map<std::string, std::string, std::less<>> files;  // of a folder, beside the weights
};

/// The model as a GGUF file: from a folder under llama.cpp's names, from a GGUF as it is. Refuses (unsupported, naming
/// the field) what GGUF's keys of the architecture cannot say, and an architecture that GGUF lacks.
FilePlan plan_gguf(const families::Model& model, bool tokenizer);
/// The model as a Hugging Face folder, likewise. From a folder: the same config under the names save_pretrained gives.
FilePlan plan_folder(const families::Model& model, bool tokenizer);

/// The names a model's tensors have in a GGUF that is made here, and with them in files of importance. Of weights that
/// a file holds as -exp the paths are moved to `minus_exp`, where that is wanted, with whether it holds
/// exp instead.
families::NameTable gguf_names_to_write(const std::string& architecture,
                                        std::map<std::string, bool, std::less<>>* minus_exp = nullptr);

/// What the values of a weight differ in between a model as `ours` has it and as a reader of the file will.
Change change_between(const models::ModelSpec& ours, const models::ModelSpec& theirs, const Role& role);

}  // namespace coterie::surgery
