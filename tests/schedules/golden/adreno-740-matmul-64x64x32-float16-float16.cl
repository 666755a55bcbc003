// adreno-740: matmul 64x64x32 float16 float16, version 3 of the family
__kernel void main_kernel(__global half* restrict matmul_scale_ptr, __read_only image1d_buffer_t p0_ptr /* CL_HALF_FLOAT */, __read_only image1d_buffer_t p1_ptr /* CL_HALF_FLOAT */) {
  int _ptr[1];
  int _ptr_1[1];
  float4 _ptr_2[4];
  float _ptr_3[4];
  __local float _ptr_4[512];
  float _ptr_5[16];
  int _ptr_6[1];
  float4 _ptr_7[1];
  int _ptr_8[1];
  float _ptr_9[8];
  int _ptr_10[1];
  int cse_v1 = ((convert_int(get_local_id(0))) >> 5);
  int cse_v2 = ((convert_int(get_local_id(0))) & 31);
  _ptr[0] = ((((convert_int(get_local_id(0))) >> 5) + ((((((convert_int(get_local_id(0))) >> 5) * 32) + (((convert_int(get_local_id(0))) & 3) * 8)) + (((convert_int(get_local_id(0))) & 31) >> 2)) << 8)) + ((convert_int(get_local_id(0))) << 20));
  int cse_v7 = (((convert_int(get_local_id(0))) >> 5) * 8);
  int v = (((convert_int(get_local_id(0))) >> 5) * 8);
  _ptr_1[0] = ((min((int)((convert_int(get_local_id(0))) & 31), (int)15) * 64) + (((convert_int(get_local_id(0))) >> 5) * 8));
  _ptr_2[0] = ((float4)(0.000000e+00f));
  _ptr_2[1] = ((float4)(0.000000e+00f));
  _ptr_2[2] = ((float4)(0.000000e+00f));
  _ptr_2[3] = ((float4)(0.000000e+00f));
  int v_1 = (((_ptr[0] >> 20) & 63) >> 5);
  vstore4(read_imagef(p1_ptr, (((convert_int(get_group_id(1))) * 64) + ((_ptr[0] >> 20) & 63))), 0, _ptr_3 + 0);
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(vload4(0, _ptr_3 + 0), 0, _ptr_4 + (((_ptr[0] >> 8) & 4095) * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int v_2 = 0; v_2 < 8; ++v_2) {
    vstore4(read_imagef(p0_ptr, _ptr_1[0]), 0, _ptr_5 + 0);
    vstore4(read_imagef(p0_ptr, (_ptr_1[0] + 16)), 0, _ptr_5 + 4);
    vstore4(read_imagef(p0_ptr, (_ptr_1[0] + 32)), 0, _ptr_5 + 8);
    vstore4(read_imagef(p0_ptr, (_ptr_1[0] + 48)), 0, _ptr_5 + 12);
    _ptr_6[0] = (((_ptr[0] & 255) * 32) + v_2);
    _ptr_7[0] = vload4(0, _ptr_4 + (_ptr_6[0] * 4));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[0])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[4])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[8])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[12])) * _ptr_7[0]));
    _ptr_7[0] = vload4(0, _ptr_4 + ((_ptr_6[0] * 4) + 32));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[1])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[5])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[9])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[13])) * _ptr_7[0]));
    _ptr_7[0] = vload4(0, _ptr_4 + ((_ptr_6[0] * 4) + 64));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[2])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[6])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[10])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[14])) * _ptr_7[0]));
    _ptr_7[0] = vload4(0, _ptr_4 + ((_ptr_6[0] * 4) + 96));
    _ptr_2[0] = (_ptr_2[0] + (((float4)(_ptr_5[3])) * _ptr_7[0]));
    _ptr_2[1] = (_ptr_2[1] + (((float4)(_ptr_5[7])) * _ptr_7[0]));
    _ptr_2[2] = (_ptr_2[2] + (((float4)(_ptr_5[11])) * _ptr_7[0]));
    _ptr_2[3] = (_ptr_2[3] + (((float4)(_ptr_5[15])) * _ptr_7[0]));
    _ptr_1[0] = (_ptr_1[0] + 1);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_4[(((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 63)] = (convert_float((((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 63)));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_8[0] = (convert_int(_ptr_4[(((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 63)]));
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[0], 0, _ptr_4 + ((_ptr_8[0] & 63) * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[0] = 0.000000e+00f;
  _ptr_9[1] = 0.000000e+00f;
  for (int v_3 = 0; v_3 < 2; ++v_3) {
    int cse_v3 = (v_3 * 128);
    _ptr_9[0] = (_ptr_9[0] + _ptr_4[(((v_3 * 128) + (((_ptr_8[0] & 63) & 31) * 4)) + (((_ptr_8[0] & 63) >> 5) * 2))]);
    _ptr_9[1] = (_ptr_9[1] + _ptr_4[((((v_3 * 128) + (((_ptr_8[0] & 63) & 31) * 4)) + (((_ptr_8[0] & 63) >> 5) * 2)) + 1)]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[1], 0, _ptr_4 + ((_ptr_8[0] & 63) * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[2] = 0.000000e+00f;
  _ptr_9[3] = 0.000000e+00f;
  for (int v_4 = 0; v_4 < 2; ++v_4) {
    int cse_v4 = (v_4 * 128);
    _ptr_9[2] = (_ptr_9[2] + _ptr_4[(((v_4 * 128) + (((_ptr_8[0] & 63) & 31) * 4)) + (((_ptr_8[0] & 63) >> 5) * 2))]);
    _ptr_9[3] = (_ptr_9[3] + _ptr_4[((((v_4 * 128) + (((_ptr_8[0] & 63) & 31) * 4)) + (((_ptr_8[0] & 63) >> 5) * 2)) + 1)]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[2], 0, _ptr_4 + ((_ptr_8[0] & 63) * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[4] = 0.000000e+00f;
  _ptr_9[5] = 0.000000e+00f;
  for (int v_5 = 0; v_5 < 2; ++v_5) {
    int cse_v5 = (v_5 * 128);
    _ptr_9[4] = (_ptr_9[4] + _ptr_4[(((v_5 * 128) + (((_ptr_8[0] & 63) & 31) * 4)) + (((_ptr_8[0] & 63) >> 5) * 2))]);
    _ptr_9[5] = (_ptr_9[5] + _ptr_4[((((v_5 * 128) + (((_ptr_8[0] & 63) & 31) * 4)) + (((_ptr_8[0] & 63) >> 5) * 2)) + 1)]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  vstore4(_ptr_2[3], 0, _ptr_4 + ((_ptr_8[0] & 63) * 4));
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_9[6] = 0.000000e+00f;
  _ptr_9[7] = 0.000000e+00f;
  for (int v_6 = 0; v_6 < 2; ++v_6) {
    int cse_v6 = (v_6 * 128);
    _ptr_9[6] = (_ptr_9[6] + _ptr_4[(((v_6 * 128) + (((_ptr_8[0] & 63) & 31) * 4)) + (((_ptr_8[0] & 63) >> 5) * 2))]);
    _ptr_9[7] = (_ptr_9[7] + _ptr_4[((((v_6 * 128) + (((_ptr_8[0] & 63) & 31) * 4)) + (((_ptr_8[0] & 63) >> 5) * 2)) + 1)]);
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_4[((((_ptr_8[0] & 63) & 31) * 16) + (((_ptr_8[0] & 63) >> 5) * 2))] = _ptr_9[0];
  _ptr_4[(((((_ptr_8[0] & 63) & 31) * 16) + (((_ptr_8[0] & 63) >> 5) * 2)) + 1)] = _ptr_9[1];
  _ptr_4[(((((_ptr_8[0] & 63) & 31) * 16) + (((_ptr_8[0] & 63) >> 5) * 2)) + 4)] = _ptr_9[2];
  _ptr_4[(((((_ptr_8[0] & 63) & 31) * 16) + (((_ptr_8[0] & 63) >> 5) * 2)) + 5)] = _ptr_9[3];
  _ptr_4[(((((_ptr_8[0] & 63) & 31) * 16) + (((_ptr_8[0] & 63) >> 5) * 2)) + 8)] = _ptr_9[4];
  _ptr_4[(((((_ptr_8[0] & 63) & 31) * 16) + (((_ptr_8[0] & 63) >> 5) * 2)) + 9)] = _ptr_9[5];
  _ptr_4[(((((_ptr_8[0] & 63) & 31) * 16) + (((_ptr_8[0] & 63) >> 5) * 2)) + 12)] = _ptr_9[6];
  _ptr_4[(((((_ptr_8[0] & 63) & 31) * 16) + (((_ptr_8[0] & 63) >> 5) * 2)) + 13)] = _ptr_9[7];
  barrier(CLK_LOCAL_MEM_FENCE);
  _ptr_10[0] = ((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 63)) & 1);
  #pragma unroll 1
  while (1) {
    if (!((_ptr_10[0] < 2))) { break; }
    vstore4((convert_half4(vload4(0, _ptr_4 + (((((_ptr_8[0] & 63) & 31) * 16) + ((_ptr_10[0] & 3) * 8)) + (((_ptr_8[0] & 63) >> 5) * 4))))), 0, matmul_scale_ptr + (((((min((int)((_ptr_8[0] & 63) & 31), (int)15) * 128) + ((_ptr_10[0] & 3) * 64)) + (((_ptr_8[0] & 63) >> 5) * 32)) + ((convert_int(get_group_id(1))) * 4)) + (((_ptr_8[0] - (((_ptr[0] + convert_int(get_group_id(2))) >> 20) & 63)) & 1) * 4)));
    _ptr_10[0] = (_ptr_10[0] + 1);
  }
}

